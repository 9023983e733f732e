package io.github.realizehit.client;

import java.time.Duration;
import java.util.Objects;
import java.util.function.Consumer;

/**
 * The settings of a subscription. {@link WSClient#subscription(java.util.Map)} begins one.
 *
 * <p>The functions for events are called in the order of what happened, and never two at a time. The function for messages
 * runs beside them. A function that throws is logged and ends nothing.
 */
public final class SubscriptionBuilder {
    final ClientCore client;
    final Pattern pattern;
    String since;
    int last;
    boolean positions;
    long every;
    int queue;
    Consumer<Message> onMessage;
    Consumer<SubscriptionState> onState = state -> {};
    Consumer<Gap> onGap = gap -> {};
    Runnable onRecovered = () -> {};
    Consumer<RealizehitException> onError = error -> {};

    SubscriptionBuilder(ClientCore client, Pattern pattern, int queue) {
        this.client = client;
        this.pattern = pattern;
        this.queue = queue;
    }

    /**
     * Asks for what was published after a position, before the live messages. What the server cannot serve is told as a gap.
     * A server without history serves nothing of it.
     *
     * @param position of a {@link Message}
     * @return this
     */
    public SubscriptionBuilder since(String position) {
        since = Objects.requireNonNull(position, "position");
        return this;
    }

    /**
     * Asks for the last messages, before the live ones. A server without history serves none.
     *
     * @param count how many, at most
     * @return this
     */
    public SubscriptionBuilder last(int count) {
        last = Addresses.positive(count, "last");
        return this;
    }

    /**
     * Asks for the positions of messages, by which the subscription goes on after its last message when the connection was
     * lost. {@link #since(String)} and {@link #last(int)} do so too.
     *
     * @return this
     */
    public SubscriptionBuilder positions() {
        positions = true;
        return this;
    }

    /**
     * Lets the server send at most one message in a time, always the newest. Subscriptions of a client to one pattern have
     * the same. It excludes {@link #since(String)}, {@link #last(int)} and {@link #positions()}.
     *
     * @param time rounded down to milliseconds
     * @return this
     * @throws IllegalArgumentException if it is shorter than a millisecond
     */
    public SubscriptionBuilder every(Duration time) {
        if (time.toMillis() < 1) {
            throw new IllegalArgumentException("every is shorter than a millisecond");
        }
        every = time.toMillis();
        return this;
    }

    /**
     * Sets how many messages may wait in the subscription. When it is full the oldest ones are dropped. The default is that
     * of the client.
     *
     * @param messages how many
     * @return this
     */
    public SubscriptionBuilder queue(int messages) {
        queue = Addresses.positive(messages, "queue");
        return this;
    }

    /**
     * Sets what is called with each message, on a thread of its own. Without it the program reads the subscription itself.
     *
     * @param callback the function
     * @return this
     */
    public SubscriptionBuilder onMessage(Consumer<Message> callback) {
        onMessage = Objects.requireNonNull(callback, "callback");
        return this;
    }

    /**
     * Sets what is called when the state changed.
     *
     * @param callback the function
     * @return this
     */
    public SubscriptionBuilder onState(Consumer<SubscriptionState> callback) {
        onState = Objects.requireNonNull(callback, "callback");
        return this;
    }

    /**
     * Sets what is called when messages may be missing.
     *
     * @param callback the function
     * @return this
     */
    public SubscriptionBuilder onGap(Consumer<Gap> callback) {
        onGap = Objects.requireNonNull(callback, "callback");
        return this;
    }

    /**
     * Sets what is called when the subscription is in force again after a lost connection, and the server has said that
     * nothing is missed.
     *
     * @param callback the function
     * @return this
     */
    public SubscriptionBuilder onRecovered(Runnable callback) {
        onRecovered = Objects.requireNonNull(callback, "callback");
        return this;
    }

    /**
     * Sets what is called when the server ended the subscription, or a message cannot be understood.
     *
     * @param callback the function
     * @return this
     */
    public SubscriptionBuilder onError(Consumer<RealizehitException> callback) {
        onError = Objects.requireNonNull(callback, "callback");
        return this;
    }

    /**
     * Subscribes, and waits until that is in force: nothing that is published from then on is missed.
     *
     * @return the subscription
     * @throws RealizehitException the server refused it, it did not answer in time, or the client is closed
     * @throws InterruptedException the thread was interrupted; nothing is subscribed to
     */
    public Subscription subscribe() throws InterruptedException {
        return client.subscribe(this);
    }
}
