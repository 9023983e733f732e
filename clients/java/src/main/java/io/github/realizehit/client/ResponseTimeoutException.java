package io.github.realizehit.client;

/**
 * The server did not answer an action in time.
 */
public final class ResponseTimeoutException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    ResponseTimeoutException(Details details) {
        super(details);
    }
}
