package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** How a subscription goes on after its last message. The test plays the server, which keeps a history. */
@Timeout(20)
final class TopicsTest {
    private static final Duration BACKOFF = Duration.ofMillis(1);

    private final List<JsonNode> sent = new ArrayList<>();
    private final List<String> told = new ArrayList<>();
    private final List<Runnable> postponed = new ArrayList<>();
    private final Callbacks callbacks = new Callbacks();
    private final Topics topics = new Topics(new Backoff(BACKOFF, BACKOFF), (nanos, work) -> postponed.add(work));
    private final SubscriptionBuilder builder = new SubscriptionBuilder(null, Pattern.of(Map.of("kind", "news")), 16)
            .onGap(gap -> told.add("gap"))
            .onRecovered(() -> told.add("recovered"))
            .onError(error -> told.add(error.code()));

    @AfterEach
    void stop() {
        callbacks.close(Duration.ofSeconds(5));
    }

    private Subscription subscribe() {
        return topics.join(builder, topic -> new Subscription(null, callbacks, topic, builder));
    }

    private void connect() {
        Connection connection = new Connection(null, Runnable::run, 1 << 20);
        connection.open(new RecordingSocket());
        topics.connected(connection);
    }

    private JsonNode lastSent() {
        return sent.get(sent.size() - 1);
    }

    /** Answers the last action. */
    private void answer(String fields) {
        topics.answered(Json.objectOrNull("{\"id\":\"" + lastSent().path("id").asText() + "\"," + fields + "}"));
    }

    private void receive(String text) {
        int end = text.indexOf('?');
        topics.deliver(Label.of(text, end), text.substring(end + 1));
    }

    /** Returns what the functions of the program were told until now. */
    private List<String> told() {
        CompletableFuture<Void> flushed = new CompletableFuture<>();
        callbacks.tell(() -> flushed.complete(null));
        flushed.join();
        return told;
    }

    @Test
    void aSubscriptionGoesOnAfterItsLastMessage() throws Exception {
        builder.positions();
        connect();
        Subscription news = subscribe();
        assertTrue(lastSent().path("offsets").asBoolean());
        answer("\"ret\":\"bc86961b\",\"at\":\"k3f09a2c.16\"");
        receive("bc86961b@o=17?1");
        assertEquals("k3f09a2c.17", news.next(Duration.ZERO).orElseThrow().position().orElseThrow());

        topics.disconnected(System.nanoTime(), false);
        connect();
        assertEquals("k3f09a2c.17", lastSent().path("since").asText());
        assertFalse(lastSent().has("offsets"));
        answer("\"ret\":\"bc86961b\",\"at\":\"k3f09a2c.17\",\"recovered\":true");
        assertEquals(List.of("recovered"), told());
        receive("bc86961b@z=1&o=18?2");
        assertEquals("k3f09a2c.18", news.next(Duration.ZERO).orElseThrow().position().orElseThrow());
    }

    @Test
    void whatCannotComeIsToldAsAGap() {
        builder.positions();
        connect();
        subscribe();
        answer("\"ret\":\"bc86961b\",\"at\":\"k3f09a2c.16\"");
        topics.disconnected(System.nanoTime(), false);
        connect();
        assertEquals("k3f09a2c.16", lastSent().path("since").asText());
        answer("\"ret\":\"bc86961b\",\"at\":\"newepoch.3\",\"recovered\":false");
        assertEquals(List.of("gap"), told());
        topics.disconnected(System.nanoTime(), false);
        connect();
        assertEquals("newepoch.3", lastSent().path("since").asText());
    }

    @Test
    void aPositionOfTheProgramThatCannotBeServedIsToldAsAGap() {
        builder.since("k3f09a2c.4");
        connect();
        subscribe();
        assertEquals("k3f09a2c.4", lastSent().path("since").asText());
        answer("\"ret\":\"bc86961b\",\"recovered\":false");
        assertEquals(List.of("gap"), told());
    }

    @Test
    void theLastMessagesAreAskedForOnce() {
        builder.last(5);
        connect();
        subscribe();
        assertEquals(5, lastSent().path("last").asInt());
        answer("\"ret\":\"bc86961b\",\"at\":\"k3f09a2c.0\"");
        receive("bc86961b@o=1?1");
        topics.disconnected(System.nanoTime(), false);
        connect();
        assertFalse(lastSent().has("last"));
        assertEquals("k3f09a2c.1", lastSent().path("since").asText());
    }

    @Test
    void aServerWithoutHistoryIsAskedForNoPosition() throws Exception {
        builder.positions();
        connect();
        Subscription news = subscribe();
        answer("\"ret\":\"bc86961b\"");
        receive("bc86961b?1");
        assertTrue(news.next(Duration.ZERO).orElseThrow().position().isEmpty());
        topics.disconnected(System.nanoTime(), false);
        connect();
        assertFalse(lastSent().has("since"));
        answer("\"ret\":\"bc86961b\"");
        assertEquals(List.of("gap"), told());
    }

    @Test
    void aGapOfTheServerMovesThePosition() {
        builder.positions();
        connect();
        subscribe();
        answer("\"ret\":\"bc86961b\",\"at\":\"k3f09a2c.16\"");
        topics.gap(Json.objectOrNull("{\"ids\":[\"bc86961b\"],\"at\":{\"bc86961b\":\"newepoch.1\"}}"), Duration.ofSeconds(1));
        assertEquals(List.of("gap"), told());
        topics.disconnected(System.nanoTime(), false);
        connect();
        assertEquals("newepoch.1", lastSent().path("since").asText());
    }

    @Test
    void withoutPositionsNothingOfItIsAskedFor() {
        connect();
        subscribe();
        assertEquals(List.of("id", "act", "pat"), names(lastSent()));
        answer("\"ret\":\"bc86961b\"");
        assertTrue(postponed.isEmpty());
    }

    @Test
    void aSubscriptionThatCannotBeServedOnReturnIsAskedForAgain() {
        connect();
        subscribe();
        answer("\"ret\":\"bc86961b\"");
        topics.disconnected(System.nanoTime(), false);
        connect();
        answer("\"err\":\"the broker is away\",\"code\":\"unavailable\"");
        int before = sent.size();
        postponed.remove(0).run();
        assertEquals(before + 1, sent.size());
        answer("\"err\":\"no longer\",\"code\":\"forbidden\"");
        assertEquals(List.of("forbidden"), told());
    }

    @Test
    void droppedMessagesAreToldTogether() {
        List<Long> dropped = new ArrayList<>();
        CompletableFuture<Void> begun = new CompletableFuture<>();
        CompletableFuture<Void> goOn = new CompletableFuture<>();
        builder.queue(1).onGap(gap -> {
            dropped.add(gap.dropped());
            begun.complete(null);
            goOn.join();
        });
        connect();
        Subscription news = subscribe();
        answer("\"ret\":\"bc86961b\"");
        receive("bc86961b?1");
        receive("bc86961b?2");
        begun.join();
        for (int number = 3; number <= 12; number++) {
            receive("bc86961b?" + number);
        }
        goOn.complete(null);
        told();
        assertEquals(List.of(1L, 10L), dropped);
        assertEquals(11, news.dropped());
    }

    @Test
    void aMalformedLabelIsToldOnce() {
        SubscriptionBuilder wildcard =
                new SubscriptionBuilder(null, Pattern.of(Map.of("kind", "*")), 16).onError(error -> told.add(error.getMessage()));
        connect();
        topics.join(wildcard, topic -> new Subscription(null, callbacks, topic, wildcard));
        answer("\"ret\":\"c2497913\"");
        receive("c2497913@c=kind:%zz?1");
        receive("c2497913?2");
        assertEquals(1, told().size());
        assertTrue(told().get(0).contains("kind:*"), told.toString());
    }

    private static List<String> names(JsonNode object) {
        List<String> names = new ArrayList<>();
        object.properties().forEach(each -> names.add(each.getKey()));
        return names;
    }

    /** A socket that keeps what is sent. */
    private final class RecordingSocket implements WebSocket {
        @Override
        public CompletableFuture<WebSocket> sendText(CharSequence data, boolean last) {
            sent.add(Json.objectOrNull(data.toString()));
            return CompletableFuture.completedFuture(this);
        }

        @Override
        public CompletableFuture<WebSocket> sendBinary(ByteBuffer data, boolean last) {
            throw new UnsupportedOperationException();
        }

        @Override
        public CompletableFuture<WebSocket> sendPing(ByteBuffer message) {
            throw new UnsupportedOperationException();
        }

        @Override
        public CompletableFuture<WebSocket> sendPong(ByteBuffer message) {
            throw new UnsupportedOperationException();
        }

        @Override
        public CompletableFuture<WebSocket> sendClose(int statusCode, String reason) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void request(long count) {
            // Everything is handed over by the test.
        }

        @Override
        public String getSubprotocol() {
            return "";
        }

        @Override
        public boolean isOutputClosed() {
            return false;
        }

        @Override
        public boolean isInputClosed() {
            return false;
        }

        @Override
        public void abort() {
            // There is no connection.
        }
    }
}
