package io.github.realizehit.client;

/**
 * The server does not allow this to the client or to its API key.
 */
public final class ForbiddenException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    ForbiddenException(Details details) {
        super(details);
    }
}
