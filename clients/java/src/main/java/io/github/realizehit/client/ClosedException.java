package io.github.realizehit.client;

/**
 * The client or the subscription was closed by the program.
 */
public final class ClosedException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    ClosedException(Details details) {
        super(details);
    }
}
