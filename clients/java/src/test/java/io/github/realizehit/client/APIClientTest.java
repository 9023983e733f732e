package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The client against a server that answers as each test says. */
@Timeout(30)
final class APIClientTest {
    private static final String QUEUED = "{\"status\": \"queued\", \"id\": \"bc86961b\", \"nodes\": 1}";
    private static final Map<String, String> NEWS = Map.of("kind", "news");

    private static final class Answer {
        private final int status;
        private final String body;
        private final String retryAfter;

        Answer(int status, String body, String retryAfter) {
            this.status = status;
            this.body = body;
            this.retryAfter = retryAfter;
        }
    }

    private static final class Request {
        private final String path;
        private final String key;
        private final String body;

        Request(HttpExchange exchange) throws IOException {
            path = exchange.getRequestURI().toString();
            key = exchange.getRequestHeaders().getFirst("Idempotency-Key");
            body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    private final Queue<Answer> answers = new ConcurrentLinkedQueue<>();
    private final List<Request> requests = Collections.synchronizedList(new ArrayList<>());
    private HttpServer server;

    @BeforeEach
    void start() throws IOException {
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", this::answer);
        server.start();
    }

    @AfterEach
    void stop() {
        server.stop(0);
    }

    private void answer(HttpExchange exchange) throws IOException {
        requests.add(new Request(exchange));
        Answer answer = answers.isEmpty() ? new Answer(200, QUEUED, null) : answers.remove();
        if (answer.status == 0) {
            exchange.close(); // without an answer
            return;
        }
        if (answer.retryAfter != null) {
            exchange.getResponseHeaders().set("Retry-After", answer.retryAfter);
        }
        byte[] body = answer.body.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(answer.status, body.length == 0 ? -1 : body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    private APIClient.Builder builder() {
        return APIClient.builder("http://127.0.0.1:" + server.getAddress().getPort() + "/api").backoffBase(Duration.ofMillis(5));
    }

    private static String problem(String code) {
        return "{\"code\": \"" + code + "\", \"detail\": \"as the test says\"}";
    }

    @Test
    void historyIsRead() throws Exception {
        answers.add(new Answer(0, "", null));
        answers.add(new Answer(503, "{}", null));
        answers.add(new Answer(200, "{\"id\":\"bc86961b\",\"at\":\"k3f09a2c.17\",\"first\":9,\"recovered\":true,\"more\":true,"
                + "\"messages\":[{\"at\":\"k3f09a2c.16\",\"payload\":{\"a\":1},\"pattern\":{\"kind\":\"news\"}}]}", null));
        APIClient api = APIClient.builder("http://127.0.0.1:" + server.getAddress().getPort() + "/")
                .backoffBase(Duration.ofMillis(1))
                .retryUnclear(false) // reading publishes nothing
                .build();
        History history = api.since(NEWS, "k3f09a2c.15");
        assertEquals("/history?pat=%7B%22kind%22%3A%22news%22%7D&since=k3f09a2c.15", requests.get(2).path);
        assertEquals(List.of("bc86961b", "k3f09a2c.17", 9L), List.of(history.id(), history.at(), history.first()));
        assertTrue(history.recovered().orElseThrow() && history.more());
        StoredMessage message = history.messages().get(0);
        assertEquals(1, message.json().path("a").asInt());
        assertEquals(Map.of("a", 1), message.payload(Map.class));
        assertEquals("k3f09a2c.16", message.position());
        assertEquals(NEWS, message.pattern().orElseThrow());

        answers.add(new Answer(404, "{\"code\":\"no-history\"}", null));
        assertEquals("no-history", assertThrows(RejectedException.class, () -> api.last(NEWS, 2)).code());
        assertThrows(RejectedException.class, () -> api.last(NEWS, 2)); // the answer is not a history
    }

    @Test
    void aPayloadIsWrittenAsJsonAndARawOneIsPassedOn() throws Exception {
        PublishResult result = builder().build().publish(NEWS, Map.of("a", List.of(1, "é")));
        assertEquals("bc86961b", result.id());
        assertEquals(1, result.nodes());
        assertEquals("/api/", requests.get(0).path);
        assertEquals("{\"pattern\":{\"kind\":\"news\"},\"payload\":{\"a\":[1,\"é\"]}}", requests.get(0).body);

        String raw = " {\"n\": 123456789012345678901234567890, \"a\":1,\"a\":2.0} ";
        builder().build().publish(NEWS, RawJson.of(raw));
        assertEquals("{\"pattern\":{\"kind\":\"news\"},\"payload\":" + raw + "}", requests.get(1).body);
    }

    @Test
    void whatIsNotJsonIsNotSent() {
        APIClient api = builder().build();
        for (String text : new String[] {"", "{", "1 2", "1}, \"pattern\": {\"a\": 1", "NaN", "'a'", "\"\ud800\"", "// a\n1"}) {
            assertEquals("bad-json", assertThrows(BadPayloadException.class, () -> api.publish(NEWS, RawJson.of(text)), text).code());
        }
        assertThrows(BadPayloadException.class, () -> api.publish(NEWS, new Object()));
        assertThrows(BadPatternException.class, () -> api.publish(Map.of(), 1));
        assertThrows(RejectedException.class, () -> api.publish(Publication.of(NEWS, 1).withKey("two words")));
        assertTrue(requests.isEmpty());
    }

    @Test
    void eachPublicationHasAKeyOfItsOwn() throws Exception {
        APIClient api = builder().build();
        api.publish(NEWS, 1);
        api.publish(NEWS, 1);
        api.publish(Publication.of(NEWS, 1).withKey("order-17"));
        assertTrue(requests.get(0).key.matches("[0-9a-f]{32}"));
        assertNotEquals(requests.get(0).key, requests.get(1).key);
        assertEquals("order-17", requests.get(2).key);
    }

    @Test
    void whatWasSurelyNotPublishedIsTriedAgainByTheSameKey() throws Exception {
        answers.add(new Answer(503, problem("unavailable"), "0"));
        answers.add(new Answer(429, problem("rate-limited"), null));
        assertEquals(1, builder().build().publish(NEWS, 1).nodes());
        assertEquals(3, requests.size());
        assertEquals(requests.get(0).key, requests.get(2).key);
    }

    @Test
    void whatMayHaveBeenPublishedIsTriedAgainUnlessTheProgramTurnsItOff() throws Exception {
        answers.add(new Answer(503, problem("unavailable"), null));
        answers.add(new Answer(0, "", null));
        assertEquals(1, builder().build().publish(NEWS, 1).nodes());
        assertEquals(3, requests.size());
        assertEquals(requests.get(0).key, requests.get(1).key);
        assertEquals(requests.get(0).key, requests.get(2).key);

        APIClient once = builder().retryUnclear(false).build();
        answers.add(new Answer(503, problem("unavailable"), null));
        PublishUnclearException error = assertThrows(PublishUnclearException.class, () -> once.publish(NEWS, 1));
        assertEquals(503, error.status());
        answers.add(new Answer(0, "", null));
        assertThrows(PublishUnclearException.class, () -> once.publish(NEWS, 1));
        assertEquals(5, requests.size());
    }

    @Test
    void anErrorAfterALostAnswerDoesNotSayThatNothingWasPublished() {
        answers.add(new Answer(0, "", null));
        answers.add(new Answer(503, problem("unavailable"), "0"));
        answers.add(new Answer(429, problem("rate-limited"), "0"));
        assertThrows(PublishUnclearException.class, () -> builder().build().publish(NEWS, 1));
        assertEquals(3, requests.size());
    }

    @Test
    void whatMayBePublishedIsNotSentAgainWhenItsKeyMayBeForgotten() {
        answers.add(new Answer(0, "", null));
        answers.add(new Answer(503, problem("unavailable"), "61"));
        APIClient patient = builder().timeout(Duration.ofSeconds(100)).build();
        assertThrows(PublishUnclearException.class, () -> patient.publish(NEWS, 1));
        assertEquals(2, requests.size());
    }

    @Test
    void theThirdFailureIsTold() {
        for (int count = 0; count < 3; count++) {
            answers.add(new Answer(429, problem("rate-limited"), "0"));
        }
        RateLimitedException error = assertThrows(RateLimitedException.class, () -> builder().build().publish(NEWS, 1));
        assertEquals("rate-limited", error.code());
        assertEquals(429, error.status());
        assertEquals("as the test says", error.getMessage());
        assertEquals(Duration.ZERO, error.retryAfter().orElseThrow());
        assertEquals(3, requests.size());
    }

    @Test
    void aWaitThatIsTooLongIsNotWaitedFor() {
        answers.add(new Answer(503, problem("unavailable"), "Fri, 31 Dec 9999 23:59:59 GMT"));
        assertThrows(UnavailableException.class, () -> builder().build().publish(NEWS, 1));
        assertEquals(1, requests.size());
    }

    @Test
    void aServerThatIsNotThereIsUnavailable() throws IOException {
        int port;
        try (ServerSocket unused = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            port = unused.getLocalPort();
        }
        APIClient api = APIClient.builder("http://127.0.0.1:" + port + "/").backoffBase(Duration.ofMillis(1)).build();
        ExecutionException error = assertThrows(ExecutionException.class, () -> api.publishAsync(Publication.of(NEWS, 1)).get());
        assertEquals("unavailable", assertThrows(UnavailableException.class, () -> {
            throw error.getCause();
        }).code());
    }

    @Test
    void manyHaveAnOutcomeEach() throws Exception {
        String refused = "{\"status\": \"error\", \"index\": 1, \"code\": \"forbidden\", \"detail\": \"not yours\"}";
        answers.add(new Answer(200, "{\"results\": [" + QUEUED + ", " + refused + "]}", null));
        List<Outcome> outcomes = builder().build()
                .publishMany(List.of(Publication.of(NEWS, 1), Publication.of(Map.of("a", ""), 2), Publication.of(NEWS, RawJson.of("3.0"))));
        assertEquals(1, outcomes.get(0).get().nodes());
        assertThrows(BadPatternException.class, outcomes.get(1)::get);
        assertEquals("forbidden", outcomes.get(2).error().orElseThrow().code());
        JsonNode sent = Json.objectOrNull(requests.get(0).body);
        assertEquals("/api/batch", requests.get(0).path);
        assertEquals(2, sent.path("messages").size());
        assertTrue(requests.get(0).body.contains("\"payload\":3.0,"));
        assertEquals(32, sent.path("messages").path(0).path("key").asText().length());
    }

    @Test
    void afterABatchThatFailedTheRestIsNotSent() throws Exception {
        answers.add(new Answer(0, "", null));
        List<Publication> messages = new ArrayList<>(Collections.nCopies(10_001, Publication.of(NEWS, 1)));
        List<Outcome> outcomes = builder().retryUnclear(false).build().publishMany(messages);
        assertEquals(1, requests.size());
        assertThrows(PublishUnclearException.class, outcomes.get(9_999)::get);
        assertThrows(UnavailableException.class, outcomes.get(10_000)::get);
    }

    @Test
    void badSettingsAreRefused() {
        assertThrows(IllegalArgumentException.class, () -> APIClient.create("ftp://example.org/"));
        IllegalArgumentException error =
                assertThrows(IllegalArgumentException.class, () -> APIClient.create("http:// user:secret@example.org/"));
        assertFalse(error.getMessage().contains("secret"));
        assertThrows(IllegalArgumentException.class, () -> builder().key("a b"));
        assertThrows(IllegalArgumentException.class, () -> builder().timeout(Duration.ZERO));
    }
}
