package io.github.realizehit.client;

import io.github.realizehit.client.RealizehitException.Details;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Supplier;
import java.util.regex.Matcher;

/** One WebSocket. It hands over whole messages, and tells once that it is lost. */
final class Connection implements WebSocket.Listener {
    private static final java.util.regex.Pattern DELAY = java.util.regex.Pattern.compile("delay=(\\d{1,9})");
    private static final Duration MAX_DELAY = Duration.ofMinutes(5); // that a server may ask a client to stay away

    /** What happens on a connection. The calls come one at a time. */
    interface Events {
        void received(String message);

        void lost(Connection connection, DisconnectedException error);
    }

    private final Events events;
    private final Executor executor;
    private final int maxMessage;
    private final AtomicReference<DisconnectedException> ended = new AtomicReference<>(); // null while it has not
    private final CompletableFuture<Void> over = new CompletableFuture<>();
    private final StringBuilder parts = new StringBuilder();
    private long partBytes;
    private CompletableFuture<?> sending = CompletableFuture.completedFuture(null);
    private volatile WebSocket socket;
    private volatile long heard = System.nanoTime();

    Connection(Events events, Executor executor, int maxMessage) {
        this.events = events;
        this.executor = executor;
        this.maxMessage = maxMessage;
    }

    /**
     * Begins to use the socket, after the client knows of this connection and before it sends anything. What has come with the
     * handshake is handled within this call. If answers came meanwhile, the library would handle them on this thread too, and
     * could lose the end of the connection that another thread reads.
     */
    void open(WebSocket given) {
        socket = given;
        heard = System.nanoTime();
        given.request(Long.MAX_VALUE); // the queues of the subscriptions drop what nobody reads
    }

    /** Returns when something last came, as {@link System#nanoTime()}. */
    long heard() {
        return heard;
    }

    /** Sends a text after everything that was sent before. */
    void send(String text) {
        after(() -> socket.sendText(text, true));
    }

    void ping() {
        after(() -> socket.sendPing(ByteBuffer.allocate(0)));
    }

    private synchronized void after(Supplier<CompletableFuture<WebSocket>> send) {
        // A send that fails is followed by the loss of the connection, which tells more.
        sending = sending.handle((done, failure) -> null).thenCompose(done -> send.get());
        sending.whenComplete((done, failure) -> {
            if (failure != null) { // not on this thread, which may be in the middle of something
                Throwable cause = Futures.cause(failure);
                executor.execute(() -> fail("the connection is lost: " + cause, cause));
            }
        });
    }

    /** Closes the connection as the protocol says; after some time without an answer by force. */
    void close(Duration most) {
        if (ended.get() != null) {
            return;
        }
        after(() -> socket.sendClose(WebSocket.NORMAL_CLOSURE, ""));
        over.copy().orTimeout(most.toNanos(), TimeUnit.NANOSECONDS).whenComplete((done, failure) -> {
            if (failure != null) {
                fail("the server did not answer the close frame", null);
            }
        });
    }

    /** Gives the connection up. */
    void fail(String text, Throwable cause) {
        end(Details.of(text).cause(cause));
        socket.abort();
    }

    private void end(Details details) {
        DisconnectedException error = new DisconnectedException(details);
        if (ended.compareAndSet(null, error)) {
            over.complete(null);
            events.lost(this, error);
        }
    }

    /** Ends the connection by force, after some time in which the closing handshake can end. */
    private void abortLater() {
        CompletableFuture.delayedExecutor(2, TimeUnit.SECONDS).execute(socket::abort);
    }

    /** Returns a future that is done when the connection has ended. */
    CompletableFuture<Void> over() {
        return over;
    }

    /** Gives the connection up while it is being opened. */
    void abandon() {
        ended.set(new DisconnectedException(Details.of("the client was closed")));
        WebSocket given = socket;
        if (given != null) {
            given.abort();
        }
    }

    /** Returns why it has ended; null if it has not. It can be lost before the client knows of it. */
    DisconnectedException error() {
        return ended.get();
    }

    @Override
    public void onOpen(WebSocket given) { // messages are requested by open()
        socket = given;
        if (ended.get() != null) {
            given.abort();
        }
    }

    @Override
    public CompletionStage<?> onText(WebSocket from, CharSequence data, boolean last) {
        heard = System.nanoTime();
        if (ended.get() != null) {
            return null;
        }
        // A character has three bytes at most, so that short messages need no counting.
        partBytes += partBytes + 3L * data.length() <= maxMessage && last ? 0 : utf8Length(data);
        if (partBytes > maxMessage) {
            from.sendClose(1009, "");
            end(Details.of("a message has more than " + maxMessage + " bytes").status(1009));
            abortLater();
            return null;
        }
        if (last && parts.length() == 0) {
            partBytes = 0;
            events.received(data.toString());
            return null;
        }
        parts.append(data);
        if (last) {
            String message = parts.toString();
            parts.setLength(0);
            if (parts.capacity() > 64 << 10) {
                parts.trimToSize();
            }
            partBytes = 0;
            events.received(message);
        }
        return null;
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket from, ByteBuffer data, boolean last) {
        heard = System.nanoTime(); // the protocol has no binary messages; a later one may
        return null;
    }

    @Override
    public CompletionStage<?> onPing(WebSocket from, ByteBuffer data) {
        heard = System.nanoTime(); // the library answers
        return null;
    }

    @Override
    public CompletionStage<?> onPong(WebSocket from, ByteBuffer data) {
        heard = System.nanoTime();
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket from, int status, String reason) {
        heard = System.nanoTime();
        Matcher delay = DELAY.matcher(reason);
        Duration retryAfter = null;
        if (status == 4001 && delay.matches()) {
            Duration asked = Duration.ofMillis(Long.parseLong(delay.group(1)));
            retryAfter = asked.compareTo(MAX_DELAY) > 0 ? MAX_DELAY : asked;
        }
        boolean unsaid = status == 1005 || status == 1006; // the library's words for no code
        String text = "the server closed the connection" + (unsaid ? "" : ": " + status + " " + reason);
        end(Details.of(text).code(status == 4501 ? "not-authenticated" : "").status(unsaid ? 0 : status).retryAfter(retryAfter));
        abortLater(); // the library answers the close frame when this has returned
        return null;
    }

    @Override
    public void onError(WebSocket from, Throwable error) {
        fail("the connection is lost: " + error, error);
    }

    private static int utf8Length(CharSequence text) {
        int bytes = text.length();
        for (int place = 0; place < text.length(); place++) {
            char each = text.charAt(place);
            if (each >= 0x80) {
                bytes += each >= 0x800 && !Character.isSurrogate(each) ? 2 : 1; // a pair of surrogates has four
            }
        }
        return bytes;
    }
}
