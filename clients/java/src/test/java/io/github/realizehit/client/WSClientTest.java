package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The client and a real server. What a real server does not do is in the conformance kit. */
@Timeout(60)
final class WSClientTest {
    private static final Duration PATIENCE = Duration.ofSeconds(20);
    private static final Map<String, String> NEWS = Map.of("kind", "news");
    private static Server server;
    private static APIClient api;

    @BeforeAll
    static void start() throws IOException {
        server = Server.start();
        api = APIClient.create(server.api);
    }

    @AfterAll
    static void stop() {
        if (server != null) {
            server.close();
        }
    }

    private static <T> T take(BlockingQueue<T> queue) throws InterruptedException {
        T found = queue.poll(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        assertNotNull(found, "nothing came");
        return found;
    }

    @Test
    void aLoopReadsWhatIsPublishedInOrder() throws Exception {
        try (WSClient client = WSClient.connect(server.ws)) {
            Subscription news = client.subscribe(Map.of("kind", "loop", "n", 3.0));
            assertEquals("kind:loop|n:3", news.patternText());
            assertEquals(SubscriptionState.SUBSCRIBED, news.state());
            List<Publication> messages = new ArrayList<>();
            for (int number = 0; number < 100; number++) {
                messages.add(Publication.of(Map.of("kind", "loop", "n", 3), Map.of("number", number)));
            }
            for (Outcome outcome : api.publishMany(messages)) {
                assertEquals(1, outcome.get().nodes());
                assertEquals(news.id(), outcome.get().id());
            }
            int number = 0;
            for (Message message : news) {
                assertEquals("{\"number\":" + number + "}", message.text());
                assertEquals(number, message.json().path("number").intValue());
                assertEquals(Map.of("kind", "loop", "n", "3"), message.pattern());
                if (++number == 100) {
                    break;
                }
            }
            assertEquals(0, news.dropped());
        }
    }

    @Test
    void aWildcardTellsTheConcretePattern() throws Exception {
        try (WSClient client = WSClient.connect(server.ws)) {
            Subscription every = client.subscribe(Map.of("kind", "stock", "symbol", "*"));
            api.publish(Map.of("kind", "stock", "symbol", "A|B"), 1.5);
            Message message = every.next(PATIENCE).orElseThrow();
            assertEquals(Map.of("kind", "stock", "symbol", "A|B"), message.pattern());
            assertEquals(1.5, message.payload(Double.class));
            assertThrows(BadPayloadException.class, () -> message.payload(Map.class));
        }
    }

    @Test
    void aCallbackThatFailsGetsTheNextMessage() throws Exception {
        BlockingQueue<String> texts = new LinkedBlockingQueue<>();
        try (WSClient client = WSClient.connect(server.ws)) {
            Subscription news = client.subscription(Map.of("kind", "callback"))
                    .onMessage(message -> {
                        texts.add(message.text());
                        throw new IllegalStateException("this test's callback fails");
                    })
                    .subscribe();
            api.publish(Map.of("kind", "callback"), 1);
            api.publish(Map.of("kind", "callback"), 2);
            assertEquals("1", take(texts));
            assertEquals("2", take(texts));
            assertEquals(SubscriptionState.SUBSCRIBED, news.state());
        }
    }

    @Test
    void aReactiveStreamEndsWithTheSubscription() throws Exception {
        BlockingQueue<String> texts = new LinkedBlockingQueue<>();
        CompletableFuture<Void> completed = new CompletableFuture<>();
        try (WSClient client = WSClient.connect(server.ws)) {
            Subscription news = client.subscribe(Map.of("kind", "flow"));
            news.publisher().subscribe(new Flow.Subscriber<>() {
                @Override
                public void onSubscribe(Flow.Subscription subscription) {
                    subscription.request(Long.MAX_VALUE);
                }

                @Override
                public void onNext(Message message) {
                    texts.add(message.text());
                }

                @Override
                public void onError(Throwable error) {
                    completed.completeExceptionally(error);
                }

                @Override
                public void onComplete() {
                    completed.complete(null);
                }
            });
            api.publish(Map.of("kind", "flow"), "hello");
            assertEquals("\"hello\"", take(texts));
            news.unsubscribe();
            assertNull(completed.get(PATIENCE.toSeconds(), TimeUnit.SECONDS));
        }
    }

    @Test
    void afterUnsubscribingNothingComesAndReadersEnd() throws Exception {
        try (WSClient client = WSClient.connect(server.ws)) {
            Subscription news = client.subscribe(Map.of("kind", "ended"));
            Iterator<Message> reader = news.iterator();
            api.publish(Map.of("kind", "ended"), 1);
            assertEquals("1", reader.next().text());
            news.unsubscribe();
            news.unsubscribe();
            assertEquals(SubscriptionState.UNSUBSCRIBED, news.state());
            assertFalse(reader.hasNext());
            assertThrows(ClosedException.class, () -> news.next(Duration.ZERO));
            assertEquals(0, api.publish(Map.of("kind", "ended"), 2).nodes());
        }
    }

    @Test
    void closingTheClientEndsWhatWaits() throws Exception {
        WSClient client = WSClient.connect(server.ws);
        Subscription news = client.subscribe(NEWS);
        CompletableFuture<Boolean> more = CompletableFuture.supplyAsync(() -> news.iterator().hasNext());
        client.close();
        client.close();
        assertFalse(more.get(PATIENCE.toSeconds(), TimeUnit.SECONDS));
        assertNull(client.ended().get(PATIENCE.toSeconds(), TimeUnit.SECONDS));
        assertThrows(ClosedException.class, () -> client.subscribe(NEWS));
        assertFalse(client.isConnected());
    }

    @Test
    void aClientCanBeClosedByItsOwnCallback() throws Exception {
        CountDownLatch closed = new CountDownLatch(1);
        WSClient client = WSClient.connect(server.ws);
        client.subscription(Map.of("kind", "last"))
                .onMessage(message -> {
                    client.close();
                    closed.countDown();
                })
                .subscribe();
        api.publish(Map.of("kind", "last"), 1);
        assertTrue(closed.await(PATIENCE.toSeconds(), TimeUnit.SECONDS));
        assertNull(client.ended().get(PATIENCE.toSeconds(), TimeUnit.SECONDS));
    }

    @Test
    void anInterruptedSubscriptionIsTakenBack() throws Exception {
        try (WSClient client = WSClient.connect(server.ws)) {
            Thread.currentThread().interrupt();
            assertThrows(InterruptedException.class, () -> client.subscribe(Map.of("kind", "interrupted")));
            Subscription again = client.subscribe(Map.of("kind", "interrupted"));
            api.publish(Map.of("kind", "interrupted"), 1);
            assertEquals("1", again.next(PATIENCE).orElseThrow().text());
        }
    }

    @Test
    void refusalsAreTold() throws Exception {
        try (WSClient client = WSClient.connect(server.ws)) {
            client.subscribe(Map.of("user", 25442));
            RejectedException error = assertThrows(RejectedException.class, () -> client.subscribe(Map.of("user", 28322)));
            assertEquals("id-collision", error.code());
            assertThrows(BadPatternException.class, () -> client.subscribe(Map.of("user", "")));
        }
        DisconnectedException error =
                assertThrows(DisconnectedException.class, () -> WSClient.connect(server.ws.replaceAll("ws$", "elsewhere")));
        assertEquals(404, error.status());
    }

    @Test
    void aClientOutlivesTheRestartOfItsServer() throws Exception {
        BlockingQueue<String> events = new LinkedBlockingQueue<>();
        BlockingQueue<Gap> gaps = new LinkedBlockingQueue<>();
        Server first = Server.start();
        WSClient.Builder builder = WSClient.builder(first.ws)
                .backoff(Duration.ofMillis(20), Duration.ofMillis(200))
                .onConnected(() -> events.add("connected"))
                .onDisconnected(lost -> events.add("disconnected " + lost.status()));
        try (WSClient client = builder.connect()) {
            assertEquals("connected", take(events));
            Subscription news = client.subscription(NEWS).onGap(gaps::add).subscribe();
            first.close();
            assertEquals("disconnected 4001", take(events));
            try (Server second = Server.start("--port", first.port())) {
                assertEquals("connected", take(events));
                Gap gap = take(gaps);
                assertFalse(gap.duration().isNegative());
                assertEquals(0, gap.dropped());
                APIClient.create(second.api).publish(NEWS, "again");
                assertEquals("\"again\"", news.next(PATIENCE).orElseThrow().text());
            }
        } finally {
            first.close();
        }
    }

    @Test
    void aConnectionThatEndsWithItsHandshakeIsMadeAgain() throws Exception {
        CountDownLatch connections = new CountDownLatch(3);
        try (ServerSocket listener = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            serve(() -> {
                for (; ; connections.countDown()) {
                    acceptAndBreak(listener);
                }
            });
            WSClient client = WSClient.builder("ws://127.0.0.1:" + listener.getLocalPort() + "/ws")
                    .backoff(Duration.ofMillis(5), Duration.ofMillis(20))
                    .connect();
            assertTrue(connections.await(PATIENCE.toSeconds(), TimeUnit.SECONDS));
            client.close();
        }
    }

    /** Accepts a WebSocket, sends a frame that no server may send in the same packet, and goes away. */
    private static void acceptAndBreak(ServerSocket listener) throws IOException, NoSuchAlgorithmException {
        try (Socket socket = listener.accept()) {
            accept(socket, "\u00f1\u0001a");
        }
    }

    /** Answers the handshake of a WebSocket, and sends more in the same packet. */
    private static void accept(Socket socket, String more) throws IOException, NoSuchAlgorithmException {
        BufferedReader head = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.ISO_8859_1));
        String key = "";
        for (String line = head.readLine(); line != null && !line.isEmpty(); line = head.readLine()) {
            key = line.startsWith("Sec-WebSocket-Key: ") ? line.substring(19) : key;
        }
        byte[] accepted = MessageDigest.getInstance("SHA-1")
                .digest((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(StandardCharsets.ISO_8859_1));
        write(socket, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + "Sec-WebSocket-Accept: " + Base64.getEncoder().encodeToString(accepted) + "\r\n\r\n" + more);
    }

    private static void write(Socket socket, String bytes) throws IOException {
        socket.getOutputStream().write(bytes.getBytes(StandardCharsets.ISO_8859_1));
    }

    private static String frame(int first, String payload) {
        return "" + (char) first + (char) payload.length() + payload;
    }

    /** Runs a server of a test until its listener is closed. */
    private static void serve(Serving work) {
        Thread serving = new Thread(() -> {
            try {
                work.run();
            } catch (IOException | NoSuchAlgorithmException | InterruptedException end) {
                // The test has ended.
            }
        });
        serving.setDaemon(true);
        serving.start();
    }

    private interface Serving {
        void run() throws IOException, NoSuchAlgorithmException, InterruptedException;
    }

    @Test
    void aTokenFunctionThatFailsWithAnErrorIsCalledAgain() throws Exception {
        CountDownLatch connections = new CountDownLatch(2);
        AtomicInteger calls = new AtomicInteger();
        BlockingQueue<RealizehitException> errors = new LinkedBlockingQueue<>();
        try (ServerSocket listener = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            serve(() -> {
                for (; ; connections.countDown()) {
                    acceptAndBreak(listener);
                }
            });
            WSClient.Builder builder = WSClient.builder("ws://127.0.0.1:" + listener.getLocalPort() + "/ws")
                    .backoff(Duration.ofMillis(5), Duration.ofMillis(20))
                    .onError(errors::add)
                    .token(() -> {
                        if (calls.incrementAndGet() == 2) {
                            throw new StackOverflowError("this test's function fails");
                        }
                        return "token";
                    });
            WSClient client = builder.connect();
            assertTrue(take(errors) instanceof TokenException);
            assertTrue(connections.await(PATIENCE.toSeconds(), TimeUnit.SECONDS));
            client.close();
        }
    }

    @Test
    void aConnectionThatIsClosedWithItsHandshakeIsNotUsed() throws Exception {
        CountDownLatch subscribed = new CountDownLatch(1);
        BlockingQueue<Integer> lost = new LinkedBlockingQueue<>();
        try (ServerSocket listener = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            serve(() -> {
                try (Socket socket = listener.accept()) {
                    accept(socket, "");
                    socket.getInputStream().read(); // the sub
                    write(socket, frame(0x81, "{\"id\":\"1\",\"ret\":\"bc86961b\"}"));
                    subscribed.await();
                    write(socket, frame(0x88, "\u000f\u00a1delay=0"));
                    try (Socket next = listener.accept()) {
                        accept(next, frame(0x88, "\u000f\u00a1delay=60000"));
                        next.getInputStream().read();
                    }
                }
            });
            WSClient.Builder builder = WSClient.builder("ws://127.0.0.1:" + listener.getLocalPort() + "/ws")
                    .responseTimeout(Duration.ofSeconds(2))
                    .onDisconnected(error -> lost.add(error.status()));
            try (WSClient client = builder.connect()) {
                Subscription news = client.subscribe(Map.of("kind", "news"));
                subscribed.countDown();
                assertEquals(4001, take(lost));
                assertEquals(4001, take(lost));
                news.unsubscribe(); // there is nobody to ask, and so nothing to wait for
                assertEquals(SubscriptionState.UNSUBSCRIBED, news.state());
            }
        }
    }

    @Test
    void aServerThatIsNotThereShowsAtOnce() throws IOException {
        Server gone = Server.start();
        gone.close();
        assertThrows(DisconnectedException.class, () -> WSClient.connect(gone.ws));
        CompletableFuture<PublishResult> published = APIClient.builder(gone.api)
                .backoffBase(Duration.ofMillis(1))
                .build()
                .publishAsync(Publication.of(NEWS, 1));
        ExecutionException error = assertThrows(ExecutionException.class, published::get);
        assertTrue(error.getCause() instanceof UnavailableException, error.toString());
    }
}
