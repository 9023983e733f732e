package io.github.realizehit.client;

import java.util.Optional;

/** What became of one message of many: a result or an error. */
public final class Outcome {
    private final PublishResult result;
    private final RealizehitException error;

    Outcome(PublishResult result, RealizehitException error) {
        this.result = result;
        this.error = error;
    }

    /**
     * Returns the result.
     *
     * @return the result
     * @throws RealizehitException the message was not published; as {@code publish} would have thrown
     */
    public PublishResult get() {
        if (error != null) {
            throw error;
        }
        return result;
    }

    /**
     * Returns the error.
     *
     * @return the error; empty if the message was published
     */
    public Optional<RealizehitException> error() {
        return Optional.ofNullable(error);
    }

    @Override
    public String toString() {
        return "Outcome[" + (error == null ? result : error) + "]";
    }
}
