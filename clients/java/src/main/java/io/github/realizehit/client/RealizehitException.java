package io.github.realizehit.client;

import java.time.Duration;
import java.util.Optional;

/**
 * What the clients of this package throw when a request fails. Each subclass is one meaning; {@link #code()} is finer.
 */
public abstract class RealizehitException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** The stable code; empty if there is none. */
    private final String code;
    /** The HTTP status or close code; 0 if there was none. */
    private final int status;
    /** How long the server asks to wait; null if it does not say. */
    private final Duration retryAfter;

    RealizehitException(Details details) {
        super(details.text, details.cause);
        this.code = details.code;
        this.status = details.status;
        this.retryAfter = details.retryAfter;
    }

    /**
     * Returns the stable code of the server, such as {@code forbidden}. A fault that the client finds by itself has the
     * code that the server gives for it.
     *
     * @return the code; empty if there is none
     */
    public String code() {
        return code;
    }

    /**
     * Returns the HTTP status, or the close code of a WebSocket.
     *
     * @return the status; 0 if there was none
     */
    public int status() {
        return status;
    }

    /**
     * Returns how long the server asks to wait before the next attempt.
     *
     * @return the time; empty if the server does not say
     */
    public Optional<Duration> retryAfter() {
        return Optional.ofNullable(retryAfter);
    }

    /** What an exception says. */
    static final class Details {
        final String text;
        String code = "";
        int status;
        Duration retryAfter;
        Throwable cause;

        private Details(String text) {
            this.text = text;
        }

        static Details of(String text) {
            return new Details(text);
        }

        Details code(String given) {
            code = given;
            return this;
        }

        Details status(int given) {
            status = given;
            return this;
        }

        Details retryAfter(Duration given) {
            retryAfter = given;
            return this;
        }

        Details cause(Throwable given) {
            cause = given;
            return this;
        }

        /** Returns the exception that the server's code, or else the HTTP status, stands for. */
        RealizehitException refusal() {
            switch (code) {
                case "bad-pattern":
                case "wildcard-unsupported":
                    return new BadPatternException(this);
                case "forbidden":
                    return new ForbiddenException(this);
                case "not-authenticated":
                    return new NotAuthenticatedException(this);
                case "rate-limited":
                    return new RateLimitedException(this);
                case "too-large":
                    return new TooLargeException(this);
                case "unavailable":
                case "too-many-connections":
                    return new UnavailableException(this);
                default:
                    return byStatus();
            }
        }

        private RealizehitException byStatus() {
            switch (status) {
                case 401:
                    return new NotAuthenticatedException(this);
                case 403:
                    return new ForbiddenException(this);
                case 413:
                    return new TooLargeException(this);
                case 429:
                    return new RateLimitedException(this);
                case 503:
                    return new UnavailableException(this);
                default:
                    return new RejectedException(this);
            }
        }
    }
}
