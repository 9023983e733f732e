package io.github.realizehit.client;

import java.util.Objects;

/** A payload that is JSON text already. It reaches the subscribers byte for byte. */
public final class RawJson {
    private final String text;

    private RawJson(String text) {
        this.text = text;
    }

    /**
     * Makes a payload of a text.
     *
     * @param text JSON; it is checked when it is published
     * @return the payload
     */
    public static RawJson of(String text) {
        return new RawJson(Objects.requireNonNull(text, "text"));
    }

    @Override
    public String toString() {
        return text;
    }
}
