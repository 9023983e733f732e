package io.github.realizehit.client;

import java.time.Duration;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Calls the functions of the program, on threads of their own: they may take their time, and may fail. */
final class Callbacks {
    private static final System.Logger LOG = System.getLogger("io.github.realizehit.client");
    private static final ThreadLocal<Boolean> INSIDE = ThreadLocal.withInitial(() -> false);
    private static final AtomicInteger THREADS = new AtomicInteger();

    private final ExecutorService pool = Executors.newCachedThreadPool(daemons("realizehit-callback-"));
    private final Queue<Runnable> events = new ConcurrentLinkedQueue<>();
    private final SerialTask telling = new SerialTask(pool, this::tellAll);

    /** Returns a factory of threads that do not keep the program running. */
    static ThreadFactory daemons(String name) {
        return work -> {
            Thread thread = new Thread(work, name + THREADS.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        };
    }

    /** Returns what runs work beside the events. */
    Executor pool() {
        return pool;
    }

    /** Calls a function after all earlier ones. */
    void tell(Runnable call) {
        events.add(call);
        telling.run();
    }

    private void tellAll() {
        for (Runnable call = events.poll(); call != null; call = events.poll()) {
            guarded(call);
        }
    }

    /** Calls a function of the program. One that fails is logged and ends nothing. */
    static void guarded(Runnable call) {
        INSIDE.set(true);
        try {
            call.run();
        } catch (Exception | LinkageError | AssertionError | StackOverflowError error) {
            LOG.log(System.Logger.Level.ERROR, "a function that the program gave to realizehit has failed", error);
        } finally {
            INSIDE.set(false);
        }
    }

    /** Says whether this thread is in a function of the program, and so must not wait for it. */
    static boolean inside() {
        return INSIDE.get();
    }

    /** Makes what is queued the last that is told, and waits until it has been told. */
    void close(Duration most) {
        pool.shutdown();
        if (inside()) {
            return;
        }
        try {
            pool.awaitTermination(most.toNanos(), TimeUnit.NANOSECONDS);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}
