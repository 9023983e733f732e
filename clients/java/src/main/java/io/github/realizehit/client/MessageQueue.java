package io.github.realizehit.client;

import java.util.ArrayDeque;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/** The messages that wait in a subscription. When it is full the oldest ones are dropped, counted, and told. */
final class MessageQueue {
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition news = lock.newCondition();
    private final ArrayDeque<Message> messages = new ArrayDeque<>();
    private final int capacity;
    private final Runnable tellDropped;
    private Runnable reader; // told that there is something to read
    private long dropped;
    private boolean ended;
    private volatile boolean discards;
    private RealizehitException error;

    MessageQueue(int capacity, Runnable tellDropped) {
        this.capacity = capacity;
        this.tellDropped = tellDropped;
    }

    void put(Message message) {
        Runnable told;
        lock.lock();
        try {
            if (ended) {
                return;
            }
            if (messages.size() == capacity) {
                messages.poll();
                dropped++;
                tellDropped.run();
            }
            messages.add(message);
            news.signal();
            told = reader;
        } finally {
            lock.unlock();
        }
        if (told != null) {
            told.run();
        }
    }

    /** Returns the next message; null if there is none now. */
    Message poll() {
        lock.lock();
        try {
            return messages.poll();
        } finally {
            lock.unlock();
        }
    }

    /** Takes as many messages as there are and fit, and returns how many. */
    int poll(Message[] taken) {
        lock.lock();
        try {
            int count = Math.min(taken.length, messages.size());
            for (int place = 0; place < count; place++) {
                taken[place] = messages.poll();
            }
            return count;
        } finally {
            lock.unlock();
        }
    }

    /** Says whether messages that wait, or that were taken and not used yet, are to be discarded. */
    boolean discards() {
        return discards;
    }

    /**
     * Waits for the next message.
     *
     * @param nanos how long; negative for ever
     * @return the message; null if none came in time, or the queue has ended
     */
    Message poll(long nanos) throws InterruptedException {
        lock.lockInterruptibly();
        try {
            long left = nanos;
            while (messages.isEmpty() && !ended && left != 0) {
                if (nanos < 0) {
                    news.await();
                } else {
                    left = Math.max(news.awaitNanos(left), 0);
                }
            }
            return poll();
        } finally {
            lock.unlock();
        }
    }

    /** Sets what is told that there is something to read, and says whether there was no other one. */
    boolean attach(Runnable given) {
        lock.lock();
        try {
            if (reader != null) {
                return false;
            }
            reader = given;
            return true;
        } finally {
            lock.unlock();
        }
    }

    void detach() {
        lock.lock();
        try {
            reader = null;
        } finally {
            lock.unlock();
        }
    }

    /** Ends the queue. Without an error what waits is discarded; with one it can still be read. */
    void end(RealizehitException given) {
        Runnable told;
        lock.lock();
        try {
            if (ended) {
                return;
            }
            ended = true;
            error = given;
            if (given == null) {
                discards = true;
                messages.clear();
            }
            news.signalAll();
            told = reader;
        } finally {
            lock.unlock();
        }
        if (told != null) {
            told.run();
        }
    }

    /** Says whether nothing can be read any more. */
    boolean ended() {
        lock.lock();
        try {
            return ended && messages.isEmpty();
        } finally {
            lock.unlock();
        }
    }

    /** Returns what ended the queue; null if nobody failed. */
    RealizehitException error() {
        lock.lock();
        try {
            return error;
        } finally {
            lock.unlock();
        }
    }

    long dropped() {
        lock.lock();
        try {
            return dropped;
        } finally {
            lock.unlock();
        }
    }
}
