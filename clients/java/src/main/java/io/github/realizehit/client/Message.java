package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Map;
import java.util.Optional;

/** A message that was published. */
public final class Message {
    private final String text;
    private final Map<String, String> pattern;
    private final String position;

    Message(String text, Map<String, String> pattern, String position) {
        this.text = text;
        this.pattern = pattern;
        this.position = position;
    }

    /**
     * Returns the payload as it was published.
     *
     * @return its JSON text
     */
    public String text() {
        return text;
    }

    /**
     * Decodes the payload.
     *
     * @return the JSON
     * @throws BadPayloadException it is not JSON
     */
    public JsonNode json() {
        return payload(JsonNode.class);
    }

    /**
     * Decodes the payload as Jackson reads this type.
     *
     * @param <T> the type
     * @param type the type
     * @return the payload
     * @throws BadPayloadException it is not JSON, or not of this type
     */
    public <T> T payload(Class<T> type) {
        return Json.read(text, type);
    }

    /**
     * Returns the pattern that the message was published to. For a subscription with a {@code *} too it is that of the
     * publication.
     *
     * @return the filters; their values are texts
     */
    public Map<String, String> pattern() {
        return pattern;
    }

    /**
     * Returns the position of the message in the history of its pattern. {@link SubscriptionBuilder#since(String)} goes on
     * after it.
     *
     * @return the position; empty if the subscription did not ask for positions, or the pattern has no history
     */
    public Optional<String> position() {
        return Optional.ofNullable(position);
    }

    @Override
    public String toString() {
        return pattern + " " + text;
    }
}
