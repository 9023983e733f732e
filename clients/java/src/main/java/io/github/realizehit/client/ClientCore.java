package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.RealizehitException.Details;
import java.net.http.WebSocket;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** The connection of a client: it is made, watched, and made again. What is subscribed to is in {@link Topics}. */
final class ClientCore implements Connection.Events {
    private static final long STABLE_NANOS = TimeUnit.SECONDS.toNanos(10); // a shorter connection is not a success
    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(2);
    private static final Duration CALLBACK_TIMEOUT = Duration.ofSeconds(5);
    private static final Duration MAX_RETRY_AFTER = Duration.ofMinutes(5);

    private final ReentrantLock lock = new ReentrantLock();
    private final WSClient.Builder options;
    private final Callbacks callbacks = new Callbacks();
    private final ScheduledThreadPoolExecutor timer;
    private final Dialer dialer;
    private final Topics topics;
    private final CompletableFuture<Void> done = new CompletableFuture<>();

    // The lock guards these.
    private final Backoff backoff;
    private Connection connection; // null while there is none
    private long openedAt; // of System.nanoTime()
    private int drains; // how often a server named the delay, since a connection lasted
    private boolean closing;
    private boolean finished;
    private boolean renewing;
    private RealizehitException error; // for which the client has ended

    ClientCore(WSClient.Builder options) {
        this.options = options;
        this.timer = new ScheduledThreadPoolExecutor(1, Callbacks.daemons("realizehit-timer-"));
        timer.setRemoveOnCancelPolicy(true);
        timer.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
        this.dialer = new Dialer(options, callbacks.pool());
        this.backoff = new Backoff(options.backoffBase, options.backoffCap);
        this.topics = new Topics(new Backoff(options.backoffBase, options.backoffCap), this::later);
    }

    <T> T locked(Supplier<T> work) {
        lock.lock();
        try {
            return work.get();
        } finally {
            lock.unlock();
        }
    }

    /** Runs work with the lock after a time, if the same connection is there. */
    private void later(long nanos, Runnable work) {
        Connection then = connection;
        schedule(nanos, () -> {
            if (connection == then) {
                work.run();
            }
        });
    }

    /** Runs work with the lock after a time, unless the client has ended. It is called with the lock. */
    private void schedule(long nanos, Runnable work) {
        if (!finished) {
            timer.schedule(
                    () -> locked(() -> {
                        if (!finished) {
                            work.run();
                        }
                        return null;
                    }),
                    nanos,
                    TimeUnit.NANOSECONDS);
        }
    }

    boolean isConnected() {
        return locked(() -> connection != null);
    }

    CompletableFuture<Void> done() {
        return done;
    }

    // ---- the connection

    /** Connects for the first time. */
    void connect() throws InterruptedException {
        Connection made = newConnection();
        CompletableFuture<WebSocket> dialed = dialer.dial(made);
        try {
            WebSocket socket = Futures.await(dialed);
            locked(() -> {
                attach(made, socket);
                return null;
            });
        } catch (RealizehitException | InterruptedException failure) {
            made.abandon();
            timer.shutdownNow();
            callbacks.close(Duration.ZERO);
            throw failure;
        }
        long period = Math.max(options.heartbeat.toNanos() / 4, 1);
        timer.scheduleWithFixedDelay(this::watch, period, period, TimeUnit.NANOSECONDS);
    }

    private Connection newConnection() {
        return new Connection(this, timer::execute, options.maxMessage);
    }

    private void attach(Connection made, WebSocket socket) {
        connection = made;
        openedAt = System.nanoTime();
        callbacks.tell(options.onConnected);
        made.open(socket);
        if (connection != made) {
            return; // its end had come with the handshake, and open() told it
        }
        topics.connected(made);
        if (made.error() != null) { // it was lost before lost() could know it
            lost(made, made.error());
        }
    }

    /** Gives a connection up on which nothing comes. */
    private void watch() {
        Connection watched = locked(() -> connection);
        if (watched == null) {
            return;
        }
        long silent = System.nanoTime() - watched.heard();
        if (silent >= options.heartbeat.toNanos()) {
            watched.fail("nothing came for " + options.heartbeat.toMillis() + " ms", null);
        } else if (silent >= options.heartbeat.toNanos() / 2) {
            watched.ping();
        }
    }

    @Override
    public void lost(Connection from, DisconnectedException failure) {
        locked(() -> {
            if (from == connection) {
                connection = null;
                topics.disconnected(from.heard(), closing);
                callbacks.tell(() -> options.onDisconnected.accept(failure));
                goOnAfter(failure);
            }
            return null;
        });
    }

    private void goOnAfter(DisconnectedException failure) {
        int status = failure.status();
        boolean isFinal = status >= 4500 && status <= 4999 && !(status == 4501 && options.renewable);
        if (closing || isFinal) {
            finish(closing ? null : failure);
            return;
        }
        if (System.nanoTime() - openedAt >= STABLE_NANOS) {
            backoff.reset();
            drains = 0;
        }
        long delay;
        if (failure.retryAfter().isPresent()) {
            // If servers ask for no delay one after the other, the client pauses nevertheless.
            long least = drains++ == 0 ? 0 : backoff.next();
            delay = Math.max(failure.retryAfter().get().toNanos(), least);
        } else {
            delay = backoff.next();
        }
        schedule(delay, this::connectAgain);
    }

    private void connectAgain() {
        Connection made = newConnection();
        dialer.dial(made).whenComplete((socket, failure) -> locked(() -> {
            if (finished) {
                made.abandon();
            } else if (failure == null) {
                attach(made, socket);
            } else {
                made.abandon(); // it may be opened nevertheless, too late
                refused(Dialer.told(failure));
            }
            return null;
        }));
    }

    private void refused(RealizehitException failure) {
        if (failure.status() == 401 && !options.renewable || failure.status() == 403) {
            finish(failure);
            return;
        }
        tell(failure);
        Duration asked = failure.retryAfter().orElse(Duration.ZERO);
        Duration least = asked.compareTo(MAX_RETRY_AFTER) > 0 ? MAX_RETRY_AFTER : asked;
        schedule(least.toNanos() + backoff.next(), this::connectAgain);
    }

    private void tell(RealizehitException failure) {
        callbacks.tell(() -> options.onError.accept(failure));
    }

    /** Ends the client for good; with an error if the program did not ask for that. */
    private void finish(RealizehitException failure) {
        if (finished) {
            return;
        }
        finished = true;
        error = failure;
        timer.shutdown();
        topics.finish(failure);
        if (failure == null) {
            callbacks.tell(() -> done.complete(null));
        } else {
            tell(failure);
            callbacks.tell(() -> done.completeExceptionally(failure));
        }
    }

    void close() {
        locked(() -> {
            closing = true;
            if (connection == null) {
                finish(null);
            } else {
                connection.close(CLOSE_TIMEOUT);
            }
            return null;
        });
        if (Callbacks.inside()) {
            done.whenComplete((ended, failure) -> callbacks.close(Duration.ZERO));
            return;
        }
        try {
            done.get(CLOSE_TIMEOUT.plus(CALLBACK_TIMEOUT).toMillis(), TimeUnit.MILLISECONDS);
        } catch (InterruptedException failure) {
            Thread.currentThread().interrupt();
        } catch (ExecutionException | TimeoutException failure) {
            // It ended before with an error, which was told, or a function of the program does not return.
        }
        callbacks.close(CALLBACK_TIMEOUT);
    }

    // ---- what comes

    @Override
    public void received(String message) {
        if (message.startsWith("{")) {
            JsonNode object = Json.objectOrNull(message);
            if (object != null) {
                locked(() -> {
                    receivedObject(object);
                    return null;
                });
            }
            return;
        }
        int end = message.indexOf('?');
        if (end > 0) {
            Label label = Label.of(message, end);
            locked(() -> {
                topics.deliver(label, message.substring(end + 1));
                return null;
            });
        }
    }

    private void receivedObject(JsonNode object) {
        if (object.hasNonNull("id")) {
            topics.answered(object);
            return;
        }
        String event = Json.field(object, "evt");
        double seconds = Math.max(0, Math.min(object.path("seconds").asDouble(), 86_400));
        Duration duration = Duration.ofNanos((long) (seconds * 1e9));
        if (event.equals("expiring")) {
            expiring(duration);
        } else if (event.equals("note")) {
            String note = object.path("note").toString();
            callbacks.tell(() -> options.onNote.accept(note));
        } else if (event.equals("gap")) {
            topics.gap(object, duration);
        } else if (event.equals("unsubscribed")) {
            topics.endedByServer(object);
        }
    }

    // ---- the token

    private void expiring(Duration left) {
        callbacks.tell(() -> options.onExpiring.accept(left));
        if (options.renewable && !renewing && connection != null) {
            renewing = true;
            // Clients whose tokens end together do not ask together.
            double part = 0.25 + 0.25 * ThreadLocalRandom.current().nextDouble();
            renew(connection, (long) (left.toNanos() * part), new Backoff(options.backoffBase, options.backoffCap));
        }
    }

    /** Sends a fresh token after a delay; if that fails, again after another one. */
    private void renew(Connection on, long delay, Backoff delays) {
        schedule(delay, () -> {
            if (connection != on) {
                renewing = false;
                return;
            }
            dialer.token().thenCompose(token -> authenticate(on, token)).whenComplete((answer, failure) -> locked(() -> {
                if (failure == null || connection != on) {
                    renewing = false;
                } else {
                    tell(Dialer.told(failure));
                    renew(on, delays.next(), delays);
                }
                return null;
            }));
        });
    }

    private CompletableFuture<Void> authenticate(Connection on, String token) {
        CompletableFuture<Void> answer = new CompletableFuture<>();
        locked(() -> {
            if (connection != on) {
                answer.complete(null);
                return null;
            }
            topics.authenticate(token, failure -> {
                if (failure == null) {
                    answer.complete(null);
                } else {
                    answer.completeExceptionally(failure);
                }
            });
            schedule(options.responseTimeout.toNanos(), () -> answer.completeExceptionally(noAnswer("auth")));
            return null;
        });
        return answer;
    }

    private ResponseTimeoutException noAnswer(String act) {
        String text = "the server did not answer " + act + " within " + options.responseTimeout.toMillis() + " ms";
        return new ResponseTimeoutException(Details.of(text));
    }

    // ---- subscriptions

    Subscription subscribe(SubscriptionBuilder builder) throws InterruptedException {
        Subscription subscription = locked(() -> {
            if (error != null) {
                throw error;
            }
            if (closing) {
                throw new ClosedException(Details.of("the client is closed"));
            }
            return topics.join(builder, topic -> new Subscription(this, callbacks, topic, builder));
        });
        long deadline = System.nanoTime() + options.responseTimeout.toNanos();
        boolean confirmed = false;
        try {
            while (!confirmed) { // a connection that is lost meanwhile makes a new future
                CompletableFuture<Void> ready = locked(() -> subscription.topic.ready);
                wait(ready, deadline, "sub");
                confirmed = locked(() -> subscription.currentState() != SubscriptionState.SUBSCRIBING || subscription.topic.id != null);
            }
            return subscription;
        } finally {
            if (!confirmed) {
                leave(subscription);
            }
        }
    }

    void unsubscribe(Subscription subscription) throws InterruptedException {
        CompletableFuture<Void> confirmed = locked(() -> topics.leave(subscription));
        try {
            wait(confirmed, System.nanoTime() + options.responseTimeout.toNanos(), "unsub");
        } finally {
            locked(() -> {
                subscription.finish(null);
                return null;
            });
        }
    }

    /** Ends a subscription without waiting. */
    void leave(Subscription subscription) {
        locked(() -> {
            topics.leave(subscription);
            subscription.finish(null);
            return null;
        });
    }

    private void wait(CompletableFuture<Void> future, long deadline, String act) throws InterruptedException {
        if (Thread.interrupted()) { // get() does not look where the future is done
            throw new InterruptedException();
        }
        try {
            future.get(Math.max(deadline - System.nanoTime(), 0), TimeUnit.NANOSECONDS);
        } catch (TimeoutException failure) {
            throw noAnswer(act);
        } catch (ExecutionException failure) {
            throw (RealizehitException) Futures.cause(failure);
        }
    }

    /** Runs work after a time, with the lock. */
    interface Later {
        void run(long nanos, Runnable work);
    }

    /** Takes the answer to an action: null for success. */
    interface Answer extends Consumer<RealizehitException> {}
}
