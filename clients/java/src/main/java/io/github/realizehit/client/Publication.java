package io.github.realizehit.client;

import java.util.Map;

/** A message to publish. */
public final class Publication {
    private final Map<String, ?> pattern;
    private final Object payload;
    private final String key;

    private Publication(Map<String, ?> pattern, Object payload, String key) {
        this.pattern = pattern;
        this.payload = payload;
        this.key = key;
    }

    /**
     * Makes a message.
     *
     * @param pattern the filters
     * @param payload what Jackson can write as JSON, or {@link RawJson}
     * @return the message
     */
    public static Publication of(Map<String, ?> pattern, Object payload) {
        return new Publication(pattern, payload, null);
    }

    /**
     * Gives the message an idempotency key. A server that keeps these keys publishes messages with the same key and pattern
     * once within some minutes.
     *
     * @param given up to 64 visible characters of ASCII
     * @return the message with the key
     */
    public Publication withKey(String given) {
        return new Publication(pattern, payload, given);
    }

    Map<String, ?> pattern() {
        return pattern;
    }

    Object payload() {
        return payload;
    }

    String key() {
        return key;
    }
}
