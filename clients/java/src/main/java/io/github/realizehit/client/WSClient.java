package io.github.realizehit.client;

import java.net.URI;
import java.net.http.HttpClient;
import java.time.Duration;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * Subscribes over a WebSocket and stays subscribed. It is safe for several threads.
 *
 * <pre>{@code
 * try (WSClient client = WSClient.connect("ws://127.0.0.1:8080/ws")) {
 *     for (Message message : client.subscribe(Map.of("kind", "news"))) {
 *         System.out.println(message.text());
 *     }
 * }
 * }</pre>
 *
 * <p>When the connection is lost, the client connects again by itself, after a random delay or the one that the server asks
 * for, and subscribes to everything again. It ends only if it is closed, or if the server refuses it: by a close code from
 * 4500 to 4999, or by 401 or 403 in the handshake.
 */
public final class WSClient implements AutoCloseable {
    private final ClientCore core;
    private final int queue;

    private WSClient(ClientCore core, int queue) {
        this.core = core;
        this.queue = queue;
    }

    /**
     * Connects with the defaults.
     *
     * @param url the address of the WebSocket, {@code ws://127.0.0.1:8080/ws}
     * @return the client
     * @throws IllegalArgumentException the address is not of this form
     * @throws RealizehitException there is no connection; the first attempt is not repeated
     * @throws InterruptedException the thread was interrupted
     */
    public static WSClient connect(String url) throws InterruptedException {
        return builder(url).connect();
    }

    /**
     * Begins to make a client.
     *
     * @param url the address of the WebSocket, {@code ws://127.0.0.1:8080/ws}
     * @return the builder
     * @throws IllegalArgumentException the address is not of this form
     */
    public static Builder builder(String url) {
        return new Builder(url);
    }

    /**
     * Subscribes to a pattern with the defaults, and waits until that is in force: nothing that is published from then on is
     * missed. Several subscriptions to one pattern each get every message; on the wire there is one.
     *
     * @param pattern the filters; {@code *} stands for any value
     * @return the subscription
     * @throws RealizehitException the server refused it, it did not answer in time, or the client is closed
     * @throws InterruptedException the thread was interrupted; nothing is subscribed to
     */
    public Subscription subscribe(Map<String, ?> pattern) throws InterruptedException {
        return subscription(pattern).subscribe();
    }

    /**
     * Begins a subscription with settings.
     *
     * @param pattern the filters; {@code *} stands for any value
     * @return the settings
     * @throws BadPatternException the pattern breaks a rule
     */
    public SubscriptionBuilder subscription(Map<String, ?> pattern) {
        return new SubscriptionBuilder(core, Pattern.of(pattern), queue);
    }

    /**
     * Says whether a connection is there.
     *
     * @return whether it is
     */
    public boolean isConnected() {
        return core.isConnected();
    }

    /**
     * Returns a future of the end of the client. It fails with the reason if the server refused the client.
     *
     * @return the future
     */
    public CompletableFuture<Void> ended() {
        return core.done().copy();
    }

    /**
     * Ends all subscriptions and the connection, and waits, some seconds at most, until no function of the program runs any
     * more. In one of these functions it does not wait.
     */
    @Override
    public void close() {
        core.close();
    }

    /** The settings of a {@link WSClient}. The functions are called one at a time, in the order of what happened. */
    public static final class Builder {
        final URI url;
        Callable<String> token;
        boolean renewable;
        Duration openTimeout = Duration.ofSeconds(10);
        Duration responseTimeout = Duration.ofSeconds(10);
        Duration heartbeat = Duration.ofSeconds(60);
        Duration backoffBase = Duration.ofMillis(250);
        Duration backoffCap = Duration.ofSeconds(20);
        int queue = 1024;
        int maxMessage = 16 << 20;
        Consumer<HttpClient.Builder> http = builder -> {};
        Runnable onConnected = () -> {};
        Consumer<DisconnectedException> onDisconnected = error -> {};
        Consumer<Duration> onExpiring = left -> {};
        Consumer<String> onNote = note -> {};
        Consumer<RealizehitException> onError = error -> {};

        private Builder(String url) {
            this.url = Addresses.of(url, "ws", "ws://host:port/ws");
        }

        /**
         * Sets a token that says who the client is. It cannot be renewed.
         *
         * @param given a JSON Web Token
         * @return this
         */
        public Builder token(String given) {
            String checked = Addresses.visible(given, "the token");
            token = () -> checked;
            renewable = false;
            return this;
        }

        /**
         * Sets a function that returns a token. It is called for each connection, and before a token ends. It may block.
         *
         * @param function the function; if it fails, it is called again later
         * @return this
         */
        public Builder token(Callable<String> function) {
            token = Objects.requireNonNull(function, "function");
            renewable = true;
            return this;
        }

        /**
         * Sets how long connecting and the handshake may take. The default is 10 seconds.
         *
         * @param given the time
         * @return this
         */
        public Builder openTimeout(Duration given) {
            openTimeout = Addresses.positive(given, "openTimeout");
            return this;
        }

        /**
         * Sets how long the answer to an action may take. The default is 10 seconds.
         *
         * @param given the time
         * @return this
         */
        public Builder responseTimeout(Duration given) {
            responseTimeout = Addresses.positive(given, "responseTimeout");
            return this;
        }

        /**
         * Sets after what silence the connection is given up. After half of it the client sends a ping. The default is 60
         * seconds.
         *
         * @param given the time
         * @return this
         */
        public Builder heartbeat(Duration given) {
            heartbeat = Addresses.positive(given, "heartbeat");
            return this;
        }

        /**
         * Sets the bounds of the random delay before connecting again. The bound doubles from the first to the last one. The
         * defaults are 250 ms and 20 seconds.
         *
         * @param base the first bound
         * @param cap the last bound
         * @return this
         */
        public Builder backoff(Duration base, Duration cap) {
            backoffBase = Addresses.positive(base, "base");
            backoffCap = Addresses.positive(cap, "cap");
            return this;
        }

        /**
         * Sets how many messages may wait in each subscription. The default is 1,024.
         *
         * @param messages how many
         * @return this
         */
        public Builder queue(int messages) {
            queue = Addresses.positive(messages, "queue");
            return this;
        }

        /**
         * Sets the size of the largest message that is accepted. A larger one ends the connection, and the client connects
         * again. The default is 16 MiB.
         *
         * @param bytes the size
         * @return this
         */
        public Builder maxMessage(int bytes) {
            maxMessage = Addresses.positive(bytes, "maxMessage");
            return this;
        }

        /**
         * Sets a function that configures the HTTP client which makes the handshake, for example with a proxy or certificates.
         * The executor cannot be set. The client should not follow redirections, because they could take the token
         * anywhere. Without this, the system properties of proxies are heeded.
         *
         * @param function gets the builder of the HTTP client
         * @return this
         */
        public Builder http(Consumer<HttpClient.Builder> function) {
            http = Objects.requireNonNull(function, "function");
            return this;
        }

        /**
         * Sets what is called each time that the client has connected.
         *
         * @param callback the function
         * @return this
         */
        public Builder onConnected(Runnable callback) {
            onConnected = Objects.requireNonNull(callback, "callback");
            return this;
        }

        /**
         * Sets what is called each time that the connection was lost. The status of the exception is the close code.
         *
         * @param callback the function
         * @return this
         */
        public Builder onDisconnected(Consumer<DisconnectedException> callback) {
            onDisconnected = Objects.requireNonNull(callback, "callback");
            return this;
        }

        /**
         * Sets what is called when the token ends soon, with the time that is left.
         *
         * @param callback the function
         * @return this
         */
        public Builder onExpiring(Consumer<Duration> callback) {
            onExpiring = Objects.requireNonNull(callback, "callback");
            return this;
        }

        /**
         * Sets what is called with what an operator sent, as JSON text.
         *
         * @param callback the function
         * @return this
         */
        public Builder onNote(Consumer<String> callback) {
            onNote = Objects.requireNonNull(callback, "callback");
            return this;
        }

        /**
         * Sets what is called when connecting again or renewing the token failed, which is tried again, and when the client
         * has ended because the server refuses it.
         *
         * @param callback the function
         * @return this
         */
        public Builder onError(Consumer<RealizehitException> callback) {
            onError = Objects.requireNonNull(callback, "callback");
            return this;
        }

        /**
         * Connects.
         *
         * @return the client
         * @throws RealizehitException there is no connection; the first attempt is not repeated
         * @throws InterruptedException the thread was interrupted
         */
        public WSClient connect() throws InterruptedException {
            ClientCore core = new ClientCore(this);
            core.connect();
            return new WSClient(core, queue);
        }
    }
}
