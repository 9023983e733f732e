package io.github.realizehit.client;

/**
 * The message, the request or the batch is larger than the server accepts.
 */
public final class TooLargeException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    TooLargeException(Details details) {
        super(details);
    }
}
