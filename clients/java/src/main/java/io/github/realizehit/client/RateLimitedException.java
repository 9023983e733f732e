package io.github.realizehit.client;

/**
 * There were too many requests; {@link #retryAfter()} says when to go on.
 */
public final class RateLimitedException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    RateLimitedException(Details details) {
        super(details);
    }
}
