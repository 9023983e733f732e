package io.github.realizehit.client;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** A pattern that is subscribed to: once on the wire, for all of its subscriptions. The lock of the client guards it. */
final class Topic {
    final Pattern pattern;
    /** What the messages are published to, unless it is a wildcard. */
    final Map<String, String> concretePattern;

    final List<Subscription> members = new ArrayList<>();
    /** Done when it is in force or has ended; another one after each loss of the connection. */
    CompletableFuture<Void> ready = new CompletableFuture<>();
    /** The label on the wire; null while it is not in force. */
    String id;
    /** The id of its last {@code sub}. */
    String request;
    /** Whether it was in force once. */
    boolean established;
    /** Whether a malformed label was told. */
    boolean malformedTold;
    /** Whether it asked for positions. */
    final boolean positions;

    final int last;
    /** The position from which it goes on; null if there is none. */
    String position;

    /** Milliseconds in which the server sends at most one message; 0 for every message. */
    final long every;

    private String epoch = "";

    Topic(Pattern pattern, boolean positions, int last, String since, long every) {
        this.pattern = pattern;
        this.concretePattern = Pattern.parse(pattern.text());
        this.positions = positions || last > 0 || since != null;
        this.last = last;
        this.every = every;
        if (since != null) {
            goOnFrom(since);
        }
    }

    /** Notes a position, {@code <epoch>.<offset>}. */
    void goOnFrom(String given) {
        position = given;
        epoch = given.substring(0, Math.max(given.indexOf('.'), 0));
    }

    /** Notes the epoch of a position that comes before messages that are still to come. */
    void replayFrom(String given) {
        epoch = given.substring(0, Math.max(given.indexOf('.'), 0));
    }

    /**
     * Notes the offset of a message, and returns its position; null if nobody asked for positions or the epoch is not known.
     */
    String positionOf(String offset) {
        if (!positions || offset == null) {
            return null;
        }
        if (offset.indexOf('.') >= 0) {
            goOnFrom(offset);
        } else if (epoch.isEmpty()) {
            return null;
        } else {
            position = epoch + "." + offset;
        }
        return position;
    }
}
