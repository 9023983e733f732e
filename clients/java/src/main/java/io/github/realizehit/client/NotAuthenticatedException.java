package io.github.realizehit.client;

/**
 * The API key or the token is missing, unknown, or has ended.
 */
public final class NotAuthenticatedException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    NotAuthenticatedException(Details details) {
        super(details);
    }
}
