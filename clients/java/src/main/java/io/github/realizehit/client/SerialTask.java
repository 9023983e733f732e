package io.github.realizehit.client;

import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicInteger;

/** Runs one piece of work on an executor each time that it is asked for, and never twice at a time. */
final class SerialTask {
    private final AtomicInteger asked = new AtomicInteger();
    private final Executor executor;
    private final Runnable work;

    SerialTask(Executor executor, Runnable work) {
        this.executor = executor;
        this.work = work;
    }

    /** Asks for a run that begins after this call. */
    void run() {
        if (asked.getAndIncrement() == 0) {
            try {
                executor.execute(this::work);
            } catch (RejectedExecutionException error) {
                // The client is closed, and tells nothing any more.
            }
        }
    }

    private void work() {
        int seen = asked.get();
        do {
            work.run();
            seen = asked.addAndGet(-seen);
        } while (seen != 0);
    }
}
