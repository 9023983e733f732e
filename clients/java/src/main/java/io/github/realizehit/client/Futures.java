package io.github.realizehit.client;

import io.github.realizehit.client.RealizehitException.Details;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** Waiting for what other threads do. */
final class Futures {
    private Futures() {}

    /** Returns the value, or throws the exception of the other thread with the stack of this one. */
    static <T> T await(CompletableFuture<T> future) throws InterruptedException {
        try {
            return future.get();
        } catch (InterruptedException error) {
            future.cancel(true);
            throw error;
        } catch (ExecutionException error) {
            Throwable cause = cause(error);
            if (cause instanceof RealizehitException) {
                cause.fillInStackTrace();
                throw (RealizehitException) cause;
            }
            throw new RejectedException(Details.of("this failed: " + cause).cause(cause));
        }
    }

    /** Returns the exception inside of those that futures put around it. */
    static Throwable cause(Throwable error) {
        Throwable cause = error;
        while ((cause instanceof CompletionException || cause instanceof ExecutionException) && cause.getCause() != null) {
            cause = cause.getCause();
        }
        return cause;
    }
}
