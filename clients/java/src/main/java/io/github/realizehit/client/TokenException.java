package io.github.realizehit.client;

/**
 * The function that gives the token failed.
 */
public final class TokenException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    TokenException(Details details) {
        super(details);
    }
}
