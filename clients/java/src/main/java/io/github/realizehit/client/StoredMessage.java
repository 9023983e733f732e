package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** A message of a {@link History}. */
public final class StoredMessage {
    private final JsonNode payload;
    private final String position;
    private final Map<String, String> pattern;

    StoredMessage(JsonNode message) {
        this.payload = message.path("payload");
        this.position = Json.field(message, "at");
        this.pattern = message.path("pattern").isObject() ? filters(message.path("pattern")) : null;
    }

    private static Map<String, String> filters(JsonNode object) {
        Map<String, String> filters = new LinkedHashMap<>();
        object.properties().forEach(filter -> filters.put(filter.getKey(), filter.getValue().asText()));
        return Collections.unmodifiableMap(filters);
    }

    /**
     * Returns the payload.
     *
     * @return the JSON
     */
    public JsonNode json() {
        return payload;
    }

    /**
     * Decodes the payload as Jackson reads this type.
     *
     * @param <T> the type
     * @param type the type
     * @return the payload
     * @throws BadPayloadException it is not of this type
     */
    public <T> T payload(Class<T> type) {
        return Json.read(payload.toString(), type);
    }

    /**
     * Returns the position of the message.
     *
     * @return the position
     */
    public String position() {
        return position;
    }

    /**
     * Returns the pattern that the message was published to.
     *
     * @return the filters; empty unless the history is that of a pattern with a {@code *}
     */
    public Optional<Map<String, String>> pattern() {
        return Optional.ofNullable(pattern);
    }
}
