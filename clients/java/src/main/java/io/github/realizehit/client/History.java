package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;

/** A part of the messages that the server keeps for a pattern. */
public final class History {
    private final String id;
    private final String at;
    private final long first;
    private final Boolean recovered;
    private final boolean more;
    private final List<StoredMessage> messages;

    History(JsonNode answer) {
        this.id = Json.field(answer, "id");
        this.at = Json.field(answer, "at");
        this.first = answer.path("first").asLong();
        this.recovered = answer.path("recovered").isBoolean() ? answer.path("recovered").booleanValue() : null;
        this.more = answer.path("more").asBoolean();
        List<StoredMessage> read = new ArrayList<>();
        answer.path("messages").forEach(message -> read.add(new StoredMessage(message)));
        this.messages = Collections.unmodifiableList(read);
    }

    /**
     * Returns the label of the pattern on the wire.
     *
     * @return the label
     */
    public String id() {
        return id;
    }

    /**
     * Returns the position of the last message that the server has.
     *
     * @return the position
     */
    public String at() {
        return at;
    }

    /**
     * Returns the offset of the oldest message that the server keeps.
     *
     * @return the offset
     */
    public long first() {
        return first;
    }

    /**
     * Says whether nothing after the position that was asked for is missing.
     *
     * @return whether nothing is missing; empty if the last messages were asked for
     */
    public Optional<Boolean> recovered() {
        return Optional.ofNullable(recovered);
    }

    /**
     * Says whether there are further messages. Ask again with the position of the last one to read them.
     *
     * @return whether there are
     */
    public boolean more() {
        return more;
    }

    /**
     * Returns the messages.
     *
     * @return the messages, the oldest first
     */
    public List<StoredMessage> messages() {
        return messages;
    }
}
