package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.RealizehitException.Details;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.function.Function;

/** What a client is subscribed to, and the actions that wait for an answer. The lock of the client guards all of it. */
final class Topics {
    private final Map<String, Topic> byText = new LinkedHashMap<>();
    private final Map<String, Topic> byId = new HashMap<>();
    /** Take the answer to an action, by its id; null if the connection was lost before. */
    private final Map<String, Consumer<JsonNode>> pending = new HashMap<>();

    private final Backoff backoff;
    private final ClientCore.Later later;
    private Connection connection; // null while there is none
    private long actions;

    /**
     * @param backoff for subscriptions that the server cannot serve now
     * @param later runs work after a time, if the same connection is there
     */
    Topics(Backoff backoff, ClientCore.Later later) {
        this.backoff = backoff;
        this.later = later;
    }

    // ---- the connection

    /** Subscribes to everything, without waiting for answers. */
    void connected(Connection made) {
        connection = made;
        byText.values().forEach(this::ask);
    }

    void disconnected(long heard, boolean closing) {
        connection = null;
        byId.clear();
        List<Consumer<JsonNode>> unanswered = new ArrayList<>(pending.values());
        pending.clear();
        unanswered.forEach(answer -> answer.accept(null));
        for (Topic topic : byText.values()) {
            if (topic.id != null) {
                topic.id = null;
                topic.ready = new CompletableFuture<>();
            }
            if (!closing) {
                topic.members.forEach(member -> member.interrupted(heard));
            }
        }
    }

    /** Ends everything; with an error if the program did not ask for that. */
    void finish(RealizehitException error) {
        for (Topic topic : new ArrayList<>(byText.values())) {
            end(topic, error);
        }
    }

    // ---- actions

    private String act(Map<String, Object> action, Consumer<JsonNode> answer) {
        String id = Long.toString(++actions);
        Map<String, Object> whole = new LinkedHashMap<>();
        whole.put("id", id);
        whole.putAll(action);
        pending.put(id, answer);
        connection.send(Json.text(whole));
        return id;
    }

    /** Sends the {@code sub} of a topic; without a connection the next one begins with it. */
    private void ask(Topic topic) {
        if (connection == null) {
            return;
        }
        Map<String, Object> action = new LinkedHashMap<>();
        action.put("act", "sub");
        action.put("pat", topic.pattern.filters());
        if (topic.position != null) {
            action.put("since", topic.position);
        } else if (topic.last > 0 && !topic.established) {
            action.put("last", topic.last);
        } else if (topic.positions) {
            action.put("offsets", true);
        }
        if (topic.every > 0) {
            action.put("every", topic.every);
        }
        boolean resumes = topic.position != null;
        topic.request = act(action, reply -> subscribed(topic, reply, resumes));
    }

    void authenticate(String token, ClientCore.Answer answer) {
        act(Map.of("act", "auth", "token", token), reply -> answer.accept(reply != null && isRefusal(reply) ? refusal(reply) : null));
    }

    /** Takes an answer. */
    void answered(JsonNode reply) {
        Consumer<JsonNode> answer = pending.remove(Json.field(reply, "id"));
        if (answer != null) {
            answer.accept(reply);
        }
    }

    /** Takes the answer to a {@code sub}; {@code resumes} says whether it asked for what came after a position. */
    private void subscribed(Topic topic, JsonNode reply, boolean resumes) {
        if (reply == null || byText.get(topic.pattern.text()) != topic) {
            return; // it is asked for on the next connection, or nobody wants it any more
        }
        if (isRefusal(reply)) {
            String code = Json.field(reply, "code");
            if (topic.established && (code.equals("unavailable") || code.equals("rate-limited"))) {
                later.run(backoff.next(), () -> {
                    if (byText.get(topic.pattern.text()) == topic) {
                        ask(topic);
                    }
                });
            } else {
                end(topic, refusal(reply));
            }
            return;
        }
        String told = Json.field(reply, "ret");
        String id = told.isEmpty() ? topic.pattern.id() : told; // old servers do not tell it
        Topic other = byId.get(id);
        if (other != null && other != topic) {
            String text = "the id of " + topic.pattern + " is that of " + other.pattern + "; use another client for one of them";
            end(topic, Details.of(text).code("id-collision").refusal());
            return;
        }
        backoff.reset();
        confirm(topic, id, reply, resumes);
    }

    private void confirm(Topic topic, String id, JsonNode reply, boolean resumes) {
        boolean recovered = resumes && reply.path("recovered").asBoolean();
        boolean missed = resumes && !recovered;
        String at = topic.positions ? Json.field(reply, "at") : "";
        if (!at.isEmpty() && recovered) {
            topic.replayFrom(at);
        } else if (!at.isEmpty()) {
            topic.goOnFrom(at);
        }
        topic.id = id;
        topic.established = true;
        byId.put(id, topic);
        topic.members.forEach(member -> member.confirmed(recovered, missed));
        topic.ready.complete(null);
    }

    private static boolean isRefusal(JsonNode reply) {
        return reply.hasNonNull("err");
    }

    private static RealizehitException refusal(JsonNode reply) {
        return Details.of(reply.path("err").asText()).code(Json.field(reply, "code")).refusal();
    }

    // ---- subscriptions

    /** Adds a subscription, and asks for its pattern if it is the first one to it. */
    Subscription join(SubscriptionBuilder builder, Function<Topic, Subscription> create) {
        String text = builder.pattern.text();
        Topic topic = byText.get(text);
        boolean isFirst = topic == null;
        if (isFirst) {
            topic = new Topic(builder.pattern, builder.positions, builder.last, builder.since, builder.every);
        } else if (builder.since != null || builder.last > 0 || builder.positions && !topic.positions) {
            String why = "this client is subscribed to " + text + " already; only the first one can ask for history";
            throw new RejectedException(Details.of(why).code("bad-request"));
        } else if (builder.every != topic.every) {
            String why = "this client is subscribed to " + text + " already, with another every";
            throw new RejectedException(Details.of(why).code("bad-request"));
        }
        Subscription subscription = create.apply(topic);
        topic.members.add(subscription);
        if (topic.id != null) {
            subscription.move(SubscriptionState.SUBSCRIBED);
        }
        if (isFirst) {
            byText.put(text, topic);
            ask(topic);
        }
        return subscription;
    }

    /** Takes a subscription away. The future is done when the server has confirmed it, or need not. */
    CompletableFuture<Void> leave(Subscription subscription) {
        CompletableFuture<Void> confirmed = new CompletableFuture<>();
        Topic topic = subscription.topic;
        subscription.endQueue(null);
        if (!topic.members.remove(subscription)) {
            confirmed.complete(null);
            return confirmed;
        }
        subscription.move(SubscriptionState.UNSUBSCRIBING);
        if (!topic.members.isEmpty()) {
            confirmed.complete(null);
            return confirmed;
        }
        forget(topic);
        pending.remove(topic.request); // the server does not answer a sub that an unsub overtook
        if (connection == null) {
            confirmed.complete(null);
        } else {
            act(Map.of("act", "unsub", "pat", topic.pattern.filters()), reply -> confirmed.complete(null));
        }
        return confirmed;
    }

    /** Ends all subscriptions of a topic; with an error if the program did not ask for that. */
    private void end(Topic topic, RealizehitException error) {
        forget(topic);
        if (!topic.ready.isDone()) {
            topic.ready.completeExceptionally(error != null ? error : new ClosedException(Details.of("the client is closed")));
        }
        List<Subscription> members = new ArrayList<>(topic.members);
        topic.members.clear();
        for (Subscription member : members) {
            if (topic.established) {
                member.finish(error);
            } else { // subscribe() throws the error
                member.endQueue(error);
                member.move(SubscriptionState.UNSUBSCRIBED);
            }
        }
    }

    private void forget(Topic topic) {
        byText.remove(topic.pattern.text(), topic);
        if (topic.id != null) {
            byId.remove(topic.id, topic);
        }
    }

    // ---- messages and events

    void deliver(Label label, String payload) {
        Topic topic = byId.get(label.id);
        if (topic == null) {
            return;
        }
        Map<String, String> pattern = topic.concretePattern;
        if (topic.pattern.isWildcard()) {
            try {
                pattern = Pattern.parse(label.channel);
            } catch (IllegalArgumentException error) {
                tellMalformed(topic, error.getMessage());
                return;
            }
        }
        Message message = new Message(payload, pattern, topic.positionOf(label.offset));
        for (Subscription member : topic.members) {
            member.put(message);
        }
    }

    private static void tellMalformed(Topic topic, String wrong) {
        if (!topic.malformedTold) {
            topic.malformedTold = true;
            String text = "a message of " + topic.pattern + " has a malformed label and was left out, as later ones will be: " + wrong;
            topic.members.forEach(member -> member.tell(new RejectedException(Details.of(text))));
        }
    }

    /** Takes the event that messages may be missing. */
    void gap(JsonNode event, Duration duration) {
        for (Topic topic : named(event)) {
            String at = Json.field(event.path("at"), topic.id);
            if (!at.isEmpty() && topic.positions) {
                topic.goOnFrom(at);
            }
            topic.members.forEach(member -> member.gap(duration));
        }
    }

    /** Takes the event that the server ended subscriptions. */
    void endedByServer(JsonNode event) {
        for (Topic topic : named(event)) {
            String text = "the server ended the subscription: " + Json.field(event, "reason");
            end(topic, Details.of(text).code(Json.field(event, "code")).refusal());
        }
    }

    private List<Topic> named(JsonNode event) {
        List<Topic> topics = new ArrayList<>();
        if (event.path("ids").isArray()) {
            for (JsonNode id : event.path("ids")) {
                Topic topic = byId.get(id.asText());
                if (topic != null) {
                    topics.add(topic);
                }
            }
        }
        return topics;
    }
}
