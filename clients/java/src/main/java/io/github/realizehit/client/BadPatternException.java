package io.github.realizehit.client;

/**
 * The pattern breaks a rule, or has a wildcard where none may stand.
 */
public final class BadPatternException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    BadPatternException(Details details) {
        super(details);
    }
}
