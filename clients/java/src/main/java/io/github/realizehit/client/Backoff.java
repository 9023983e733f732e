package io.github.realizehit.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/** Delays with full jitter: each is drawn evenly from zero to a bound, which doubles. It is not safe for several threads. */
final class Backoff {
    private final long baseNanos;
    private final long capNanos;
    private int attempts;

    Backoff(Duration base, Duration cap) {
        this.baseNanos = base.toNanos();
        this.capNanos = cap.toNanos();
    }

    /** Returns the next delay in nanoseconds. */
    long next() {
        double bound = Math.min((double) capNanos, baseNanos * Math.pow(2, Math.min(attempts, 60)));
        attempts++;
        return (long) (ThreadLocalRandom.current().nextDouble() * bound);
    }

    void reset() {
        attempts = 0;
    }
}
