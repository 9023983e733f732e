package io.github.realizehit.client;

/**
 * The server refused the request for another reason, which {@link #code()} says, or its answer is not understood.
 */
public final class RejectedException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    RejectedException(Details details) {
        super(details);
    }
}
