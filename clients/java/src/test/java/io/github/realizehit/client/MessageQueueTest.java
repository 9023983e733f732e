package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.realizehit.client.RealizehitException.Details;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(20)
final class MessageQueueTest {
    private int told;
    private final MessageQueue queue = new MessageQueue(3, () -> told++);

    private static Message message(int number) {
        return new Message(Integer.toString(number), Map.of("a", "b"), null);
    }

    private void put(int from, int to) {
        for (int number = from; number <= to; number++) {
            queue.put(message(number));
        }
    }

    @Test
    void theOldestAreDroppedAndAllOfThemAreTold() {
        put(1, 8);
        assertEquals("6", queue.poll().text());
        put(9, 10);
        assertEquals("8", queue.poll().text());
        assertEquals(6, queue.dropped());
        assertEquals(6, told);
    }

    @Test
    void aReaderThatWaitsIsWoken() throws Exception {
        CompletableFuture<Message> read = new CompletableFuture<>();
        Thread reader = new Thread(() -> {
            try {
                read.complete(queue.poll(-1));
            } catch (InterruptedException error) {
                read.completeExceptionally(error);
            }
        });
        reader.start();
        put(1, 1);
        assertEquals("1", read.get().text());
        reader.join();
    }

    @Test
    void anEndWithoutAnErrorDiscardsAndWithOneDoesNot() throws InterruptedException {
        put(1, 1);
        RealizehitException error = new ForbiddenException(Details.of("no longer"));
        queue.end(error);
        put(2, 2);
        assertEquals("1", queue.poll(-1).text());
        assertNull(queue.poll(-1));
        assertSame(error, queue.error());

        MessageQueue other = new MessageQueue(3, () -> told++);
        other.put(message(1));
        other.end(null);
        assertNull(other.poll(-1));
        assertTrue(other.ended());
    }

    /** Requests what the test says, and keeps what comes. */
    private static final class Recorder implements Flow.Subscriber<Message> {
        private final List<String> texts = new ArrayList<>();
        private final CompletableFuture<Throwable> end = new CompletableFuture<>();
        private CountDownLatch awaited = new CountDownLatch(0);
        private Flow.Subscription subscription;

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription = given;
        }

        @Override
        public synchronized void onNext(Message message) {
            texts.add(message.text());
            awaited.countDown();
        }

        @Override
        public void onError(Throwable error) {
            end.complete(error);
        }

        @Override
        public void onComplete() {
            end.complete(null);
        }

        void request(int count) throws InterruptedException {
            synchronized (this) {
                awaited = new CountDownLatch(count);
            }
            subscription.request(count);
            assertTrue(awaited.await(10, TimeUnit.SECONDS));
        }
    }

    @Test
    void aReactiveSubscriberGetsWhatItRequests() throws Exception {
        ExecutorService executor = Executors.newCachedThreadPool();
        try {
            MessagePublisher publisher = new MessagePublisher(queue, executor);
            Recorder recorder = new Recorder();
            publisher.subscribe(recorder);
            put(1, 3);
            recorder.request(2);
            assertEquals(List.of("1", "2"), recorder.texts);
            put(4, 6); // only three can wait
            recorder.request(3);
            assertEquals(List.of("1", "2", "4", "5", "6"), recorder.texts);

            Recorder second = new Recorder();
            publisher.subscribe(second);
            assertTrue(second.end.get() instanceof IllegalStateException);

            queue.end(null);
            assertNull(recorder.end.get());
        } finally {
            executor.shutdown();
        }
    }

    @Test
    void aReactiveSubscriberIsToldTheError() throws Exception {
        MessagePublisher publisher = new MessagePublisher(queue, Runnable::run);
        Recorder recorder = new Recorder();
        publisher.subscribe(recorder);
        RealizehitException error = new ForbiddenException(Details.of("no longer"));
        put(1, 1);
        queue.end(error);
        recorder.request(1);
        assertEquals(List.of("1"), recorder.texts);
        assertSame(error, recorder.end.get());
    }

    @Test
    void aRequestThatIsNotPositiveEndsTheStream() throws Exception {
        Recorder recorder = new Recorder();
        new MessagePublisher(queue, Runnable::run).subscribe(recorder);
        recorder.subscription.request(0);
        assertTrue(recorder.end.get() instanceof IllegalArgumentException);
    }
}
