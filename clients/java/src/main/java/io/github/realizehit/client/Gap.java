package io.github.realizehit.client;

import java.time.Duration;

/** Says that messages of a subscription may be missing. */
public final class Gap {
    private final Duration duration;
    private final long dropped;

    Gap(Duration duration, long dropped) {
        this.duration = duration;
        this.dropped = dropped;
    }

    /**
     * Returns how long the connection, or the broker of the server, was away.
     *
     * @return the time; zero if the queue dropped messages, and if the server could not serve a position
     */
    public Duration duration() {
        return duration;
    }

    /**
     * Returns how many messages the full queue of the subscription dropped since the last gap.
     *
     * @return the number; 0 if the connection was away
     */
    public long dropped() {
        return dropped;
    }

    @Override
    public String toString() {
        return "Gap[duration=" + duration + ", dropped=" + dropped + "]";
    }
}
