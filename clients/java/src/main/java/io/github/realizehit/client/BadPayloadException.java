package io.github.realizehit.client;

/**
 * A payload is not JSON, cannot be written as JSON, or cannot be read as the type that was asked for.
 */
public final class BadPayloadException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    BadPayloadException(Details details) {
        super(details);
    }
}
