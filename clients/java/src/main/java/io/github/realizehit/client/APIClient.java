package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.RealizehitException.Details;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/**
 * Publishes over HTTP. It keeps its connections and is safe for several threads.
 *
 * <pre>{@code
 * APIClient api = APIClient.create("http://127.0.0.1:8080/");
 * api.publish(Map.of("kind", "news"), Map.of("title", "hello"));
 * }</pre>
 *
 * <p>Every publication has an idempotency key, so that the server publishes a repeated one once. The client tries three
 * times in all: after a lost connection, a time-out, and the answers 429 and 503. {@link Builder#retryUnclear(boolean)}
 * is for servers that do not keep these keys.
 */
public final class APIClient {
    private final HttpSender sender;

    private APIClient(Builder builder) {
        this.sender = new HttpSender(builder);
    }

    /**
     * Makes a client with the defaults.
     *
     * @param url the address of the API with its prefix, {@code http://127.0.0.1:8080/}
     * @return the client
     * @throws IllegalArgumentException the address is not of this form
     */
    public static APIClient create(String url) {
        return builder(url).build();
    }

    /**
     * Begins to make a client.
     *
     * @param url the address of the API with its prefix, {@code http://127.0.0.1:8080/}
     * @return the builder
     * @throws IllegalArgumentException the address is not of this form
     */
    public static Builder builder(String url) {
        return new Builder(url);
    }

    /**
     * Publishes a message.
     *
     * @param pattern the filters
     * @param payload what Jackson can write as JSON, or {@link RawJson}
     * @return what became of it
     * @throws RealizehitException it was not published, or that is not known ({@link PublishUnclearException})
     * @throws InterruptedException the thread was interrupted; whether the message was published is not known
     */
    public PublishResult publish(Map<String, ?> pattern, Object payload) throws InterruptedException {
        return publish(Publication.of(pattern, payload));
    }

    /**
     * Publishes a message.
     *
     * @param message the message
     * @return what became of it
     * @throws RealizehitException it was not published, or that is not known ({@link PublishUnclearException})
     * @throws InterruptedException the thread was interrupted; whether the message was published is not known
     */
    public PublishResult publish(Publication message) throws InterruptedException {
        return Futures.await(publishAsync(message));
    }

    /**
     * Publishes a message without waiting.
     *
     * @param message the message
     * @return what becomes of it; it fails as {@link #publish(Publication)} does
     */
    public CompletableFuture<PublishResult> publishAsync(Publication message) {
        try {
            byte[] body = Batches.encode(message, null);
            String key = Batches.keyOf(message);
            return sender.post("", body, key).thenApply(answer -> {
                JsonNode read = Json.objectOrNull(answer);
                if (read == null) {
                    throw notUnderstood("the answer to a publication is not understood");
                }
                return new PublishResult(read);
            });
        } catch (RealizehitException error) {
            return CompletableFuture.failedFuture(error);
        }
    }

    /**
     * Publishes messages in order, up to 10,000 or 4 MiB in one request. A message that is refused does not affect the
     * others. After a request that failed the rest is not sent.
     *
     * @param messages the messages
     * @return an outcome for each, in the same order
     * @throws InterruptedException the thread was interrupted; what was published is not known
     */
    public List<Outcome> publishMany(List<Publication> messages) throws InterruptedException {
        Outcome[] outcomes = new Outcome[messages.size()];
        RealizehitException failed = null;
        for (Batches.Batch batch : Batches.of(messages, outcomes)) {
            if (failed != null) {
                batch.fail(failed, outcomes);
                continue;
            }
            try {
                batch.answered(Futures.await(sender.post("batch", batch.body(), null)), outcomes);
            } catch (RealizehitException error) {
                batch.fail(error, outcomes);
                if (error instanceof UnavailableException || error instanceof PublishUnclearException) {
                    Details details = Details.of("not sent, since an earlier batch failed");
                    failed = new UnavailableException(details.code("unavailable").cause(error));
                }
            }
        }
        return Arrays.asList(outcomes);
    }

    /**
     * Returns the last messages of a pattern that has a history.
     *
     * @param pattern the filters
     * @param count how many
     * @return the messages
     * @throws RealizehitException the server refused it, by the code {@code no-history} if no rule keeps a history of the
     *     pattern, or could not be reached
     * @throws InterruptedException the thread was interrupted
     */
    public History last(Map<String, ?> pattern, int count) throws InterruptedException {
        return history(pattern, "last=" + count);
    }

    /**
     * Returns the messages of a pattern after a position, as far as one answer holds them.
     *
     * @param pattern the filters
     * @param position the position
     * @return the messages
     * @throws RealizehitException as {@link #last(Map, int)} does
     * @throws InterruptedException the thread was interrupted
     */
    public History since(Map<String, ?> pattern, String position) throws InterruptedException {
        return history(pattern, "since=" + URLEncoder.encode(position, StandardCharsets.UTF_8));
    }

    private History history(Map<String, ?> pattern, String range) throws InterruptedException {
        String text = Json.text(Pattern.of(pattern).filters());
        String query = "history?pat=" + URLEncoder.encode(text, StandardCharsets.UTF_8) + "&" + range;
        JsonNode read = Json.objectOrNull(Futures.await(sender.get(query)));
        if (read == null || !read.path("messages").isArray()) {
            throw notUnderstood("the answer is not a history");
        }
        return new History(read);
    }

    private static RejectedException notUnderstood(String text) {
        return new RejectedException(Details.of(text));
    }

    /** The settings of an {@link APIClient}. */
    public static final class Builder {
        final URI url;
        String key;
        Duration timeout = Duration.ofSeconds(10);
        Duration backoffBase = Duration.ofMillis(250);
        boolean retryUnclear = true;
        HttpClient http;

        private Builder(String url) {
            this.url = Addresses.of(url.endsWith("/") ? url : url + "/", "http", "http://host:port/");
        }

        /**
         * Sets the API key, which is sent as {@code Authorization: Bearer}.
         *
         * @param given the key
         * @return this
         */
        public Builder key(String given) {
            key = Addresses.visible(given, "the API key");
            return this;
        }

        /**
         * Sets how long each try may take, and the longest wait that a server can ask for. The default is 10 seconds.
         *
         * @param given the time
         * @return this
         */
        public Builder timeout(Duration given) {
            timeout = Addresses.positive(given, "timeout");
            return this;
        }

        /**
         * Sets the first bound of the random delay before a retry. It doubles. The default is 250 ms.
         *
         * @param given the time
         * @return this
         */
        public Builder backoffBase(Duration given) {
            backoffBase = Addresses.positive(given, "backoffBase");
            return this;
        }

        /**
         * Says whether a publication is tried again by the same idempotency key after a lost connection, a time-out, or the
         * answer 503 without {@code Retry-After}. The default is true. Set it to false for a server that does not keep
         * idempotency keys, because such a server could publish the message twice; {@link PublishUnclearException} is then
         * thrown at once.
         *
         * @param given whether it is tried again
         * @return this
         */
        public Builder retryUnclear(boolean given) {
            retryUnclear = given;
            return this;
        }

        /**
         * Sets the HTTP client, for example one with a proxy or certificates of its own. It should not follow
         * redirections, because they could take the key anywhere. The default heeds the system properties of proxies.
         *
         * @param given the client
         * @return this
         */
        public Builder httpClient(HttpClient given) {
            http = given;
            return this;
        }

        /**
         * Makes the client.
         *
         * @return the client
         */
        public APIClient build() {
            return new APIClient(this);
        }
    }
}
