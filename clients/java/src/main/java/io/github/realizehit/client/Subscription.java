package io.github.realizehit.client;

import io.github.realizehit.client.RealizehitException.Details;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * What a client subscribed to. One reader takes its messages: a loop over it, {@link #next(Duration)}, the function
 * {@code onMessage}, or the subscriber of {@link #publisher()}. It is safe for several threads.
 */
public final class Subscription implements Iterable<Message>, AutoCloseable {
    private static final int AT_ONCE = 16; // messages that are taken from the queue for the function of the program

    private static final long LINGER = 50_000; // nanoseconds

    private final ClientCore client;
    private final Callbacks callbacks;
    private final SubscriptionBuilder options;
    private final MessageQueue queue;
    private final AtomicLong untold = new AtomicLong(); // messages that were dropped since the last gap
    private final Message[] taken; // by the function of the program, which takes some at once; null without one
    final Topic topic;

    // The lock of the client guards these.
    private SubscriptionState state = SubscriptionState.SUBSCRIBING;
    private boolean away; // the connection was lost while it was in force
    private long awaySince; // of System.nanoTime()

    Subscription(ClientCore client, Callbacks callbacks, Topic topic, SubscriptionBuilder options) {
        this.client = client;
        this.callbacks = callbacks;
        this.topic = topic;
        this.options = options;
        this.queue = new MessageQueue(options.queue, this::messageDropped);
        this.taken = options.onMessage == null ? null : new Message[AT_ONCE];
        if (options.onMessage != null) {
            SerialTask task = new SerialTask(callbacks.pool(), this::callBack);
            queue.attach(task::run);
        }
    }

    /**
     * Returns the canonical text of the pattern.
     *
     * @return the text
     */
    public String patternText() {
        return topic.pattern.text();
    }

    /**
     * Returns the label of the pattern on the wire.
     *
     * @return the label; empty while the subscription is not in force
     */
    public String id() {
        return client.locked(() -> topic.id == null ? "" : topic.id);
    }

    /**
     * Returns where the subscription stands.
     *
     * @return the state
     */
    public SubscriptionState state() {
        return client.locked(() -> state);
    }

    /**
     * Returns how many messages were dropped because the queue was full.
     *
     * @return the number
     */
    public long dropped() {
        return queue.dropped();
    }

    /**
     * Waits for the next message.
     *
     * @param timeout how long
     * @return the message; empty if none came in time
     * @throws RealizehitException the subscription has ended: {@link ClosedException} if the program ended it
     * @throws InterruptedException the thread was interrupted
     */
    public Optional<Message> next(Duration timeout) throws InterruptedException {
        Message message = queue.poll(Math.max(timeout.toNanos(), 0));
        if (message == null && queue.ended()) {
            throw queue.error() != null ? queue.error() : new ClosedException(Details.of("the subscription was ended"));
        }
        return Optional.ofNullable(message);
    }

    /**
     * Returns an iterator that waits for messages. It ends with the subscription, and if the thread is interrupted. If the
     * server ended the subscription, {@code hasNext} throws the reason after the last message.
     *
     * @return the iterator
     */
    @Override
    public Iterator<Message> iterator() {
        return new Iterator<>() {
            private Message next;

            @Override
            public boolean hasNext() {
                try {
                    if (next == null) {
                        next = queue.poll(-1);
                    }
                } catch (InterruptedException error) {
                    Thread.currentThread().interrupt();
                    return false;
                }
                if (next == null && queue.error() != null) {
                    throw queue.error();
                }
                return next != null;
            }

            @Override
            public Message next() {
                if (!hasNext()) {
                    throw new NoSuchElementException();
                }
                Message message = next;
                next = null;
                return message;
            }
        };
    }

    /**
     * Returns the messages as a reactive stream for one subscriber. What it does not request waits in the queue. The stream
     * ends with the subscription, in an error if the server ended it.
     *
     * @return the stream
     */
    public Flow.Publisher<Message> publisher() {
        return new MessagePublisher(queue, callbacks.pool());
    }

    /**
     * Ends the subscription, and waits until the server has confirmed it. What waits in the queue is discarded. It may be
     * called again.
     *
     * @throws ResponseTimeoutException the server did not answer in time; the subscription has ended all the same
     * @throws InterruptedException the thread was interrupted; the subscription has ended all the same
     */
    public void unsubscribe() throws InterruptedException {
        client.unsubscribe(this);
    }

    /** Ends the subscription without waiting for the server. */
    @Override
    public void close() {
        client.leave(this);
    }

    /** Tells a gap, unless one waits to be told: that one will count this message too. */
    private void messageDropped() {
        if (untold.getAndIncrement() == 0) {
            callbacks.tell(() -> options.onGap.accept(new Gap(Duration.ZERO, untold.getAndSet(0))));
        }
    }

    /** Hands messages to the function of the program. */
    private void callBack() {
        for (int count = take(); count > 0; count = take()) {
            for (int place = 0; place < count; place++) {
                Message message = taken[place];
                taken[place] = null;
                if (!queue.discards()) {
                    Callbacks.guarded(() -> options.onMessage.accept(message));
                }
            }
        }
    }

    /** Takes messages, and waits a moment for some: to wake a thread for each message costs more than the rest. */
    private int take() {
        int count = queue.poll(taken);
        if (count == 0) {
            LockSupport.parkNanos(LINGER);
            count = queue.poll(taken);
        }
        return count;
    }

    // The methods below are called with the lock of the client.

    SubscriptionState currentState() {
        return state;
    }

    void put(Message message) {
        queue.put(message);
    }

    void move(SubscriptionState next) {
        if (state != next && state != SubscriptionState.UNSUBSCRIBED) {
            state = next;
            callbacks.tell(() -> options.onState.accept(next));
        }
    }

    /** The server has confirmed it. */
    void confirmed(boolean recovered, boolean missed) {
        move(SubscriptionState.SUBSCRIBED);
        if (!away) {
            if (missed) { // the server cannot serve the program's own position
                gap(Duration.ZERO);
            }
            return;
        }
        away = false;
        if (recovered) {
            callbacks.tell(options.onRecovered);
        } else {
            gap(Duration.ofNanos(System.nanoTime() - awaySince));
        }
    }

    /** The connection was lost; nothing came since a time. */
    void interrupted(long since) {
        if (state != SubscriptionState.SUBSCRIBED) {
            return;
        }
        away = true;
        awaySince = since;
        move(SubscriptionState.SUBSCRIBING);
    }

    void gap(Duration duration) {
        callbacks.tell(() -> options.onGap.accept(new Gap(duration, 0)));
    }

    void tell(RealizehitException error) {
        callbacks.tell(() -> options.onError.accept(error));
    }

    /** Ends reading. */
    void endQueue(RealizehitException error) {
        queue.end(error);
    }

    /** Ends it for good; with an error if the program did not ask for that. */
    void finish(RealizehitException error) {
        if (state == SubscriptionState.UNSUBSCRIBED) {
            return;
        }
        queue.end(error);
        move(SubscriptionState.UNSUBSCRIBED);
        if (error != null) {
            tell(error);
        }
    }
}
