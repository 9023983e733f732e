package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Optional;

/** What became of a publication. */
public final class PublishResult {
    private final String id;
    private final int nodes;
    private final String at;
    private final boolean duplicate;

    PublishResult(JsonNode answer) {
        this.id = Json.field(answer, "id");
        this.nodes = answer.path("nodes").asInt();
        this.at = answer.path("at").textValue();
        this.duplicate = answer.path("duplicate").asBoolean();
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
     * Returns how many subscribed servers the broker reached. This is not the number of clients; 0 means that nobody is
     * subscribed.
     *
     * @return the number
     */
    public int nodes() {
        return nodes;
    }

    /**
     * Returns the position of the message.
     *
     * @return the position; empty if the pattern has no history
     */
    public Optional<String> at() {
        return Optional.ofNullable(at);
    }

    /**
     * Says whether the server had published a message with this idempotency key before, and published nothing now.
     *
     * @return whether it had
     */
    public boolean duplicate() {
        return duplicate;
    }

    @Override
    public String toString() {
        return "PublishResult[id=" + id + ", nodes=" + nodes + ", at=" + at + ", duplicate=" + duplicate + "]";
    }
}
