package io.github.realizehit.client;

import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicLong;

/** The messages of a subscription for one reactive subscriber. What it does not request waits in the queue. */
final class MessagePublisher implements Flow.Publisher<Message> {
    private final MessageQueue queue;
    private final Executor executor;

    MessagePublisher(MessageQueue queue, Executor executor) {
        this.queue = queue;
        this.executor = executor;
    }

    @Override
    public void subscribe(Flow.Subscriber<? super Message> subscriber) {
        Reader reader = new Reader(subscriber);
        if (queue.attach(reader.task::run)) {
            subscriber.onSubscribe(reader);
            reader.begin();
            return;
        }
        reader.cancelled = true;
        subscriber.onSubscribe(reader);
        subscriber.onError(new IllegalStateException("another subscriber or a callback reads this subscription"));
    }

    private final class Reader implements Flow.Subscription {
        private final Flow.Subscriber<? super Message> subscriber;
        private final SerialTask task = new SerialTask(executor, this::read);
        private final AtomicLong demand = new AtomicLong();
        private volatile boolean begun; // onSubscribe has returned
        private volatile boolean invalid; // a request was not positive
        private volatile boolean cancelled;

        Reader(Flow.Subscriber<? super Message> subscriber) {
            this.subscriber = subscriber;
        }

        void begin() {
            begun = true;
            task.run();
        }

        @Override
        public void request(long count) {
            if (count <= 0) {
                invalid = true;
            } else {
                demand.accumulateAndGet(count, (before, more) -> before + more < 0 ? Long.MAX_VALUE : before + more);
            }
            task.run();
        }

        @Override
        public void cancel() {
            if (!cancelled) {
                cancelled = true;
                queue.detach();
            }
        }

        private void read() {
            if (!begun) {
                return;
            }
            while (!cancelled && !invalid && demand.get() > 0) {
                Message message = queue.poll();
                if (message == null) {
                    break;
                }
                demand.decrementAndGet();
                Callbacks.guarded(() -> subscriber.onNext(message));
            }
            if (cancelled || !invalid && !queue.ended()) {
                return;
            }
            cancel();
            if (invalid) {
                Callbacks.guarded(() -> subscriber.onError(new IllegalArgumentException("a request was not positive")));
            } else if (queue.error() == null) {
                Callbacks.guarded(subscriber::onComplete);
            } else {
                Callbacks.guarded(() -> subscriber.onError(queue.error()));
            }
        }
    }
}
