package io.github.realizehit.client;

/**
 * The server or its broker cannot be reached now. Nothing was published; the same request may work later.
 */
public final class UnavailableException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    UnavailableException(Details details) {
        super(details);
    }
}
