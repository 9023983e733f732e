package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.RealizehitException.Details;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpConnectTimeoutException;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.channels.UnresolvedAddressException;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLHandshakeException;

/** Sends requests, and sends them again where that publishes nothing twice. */
final class HttpSender {
    private static final int TRIES = 3;
    private static final Duration MAX_BACKOFF = Duration.ofSeconds(5);
    /** How long after the first try a message that may be published is sent again; servers keep its key for two minutes. */
    private static final Duration REPEAT_WITHIN = Duration.ofSeconds(60);

    private final URI url;
    private final String authorization;
    private final Duration timeout;
    private final Duration backoffBase;
    private final boolean retryUnclear;
    private final HttpClient http;

    HttpSender(APIClient.Builder builder) {
        this.url = builder.url;
        this.authorization = builder.key == null ? null : "Bearer " + builder.key;
        this.timeout = builder.timeout;
        this.backoffBase = builder.backoffBase;
        this.retryUnclear = builder.retryUnclear;
        this.http = builder.http != null ? builder.http : defaultClient(builder);
    }

    private static HttpClient defaultClient(APIClient.Builder builder) {
        HttpClient.Builder http = HttpClient.newBuilder()
                .followRedirects(HttpClient.Redirect.NEVER)
                // Before the time-out of the request, which does not tell whether the request was sent.
                .connectTimeout(builder.timeout.multipliedBy(9).dividedBy(10));
        if (builder.url.getScheme().equalsIgnoreCase("http")) {
            http.version(HttpClient.Version.HTTP_1_1); // without TLS, HTTP/2 begins with a request to upgrade
        }
        return http.build();
    }

    /** Posts a publication or a batch. */
    CompletableFuture<byte[]> post(String path, byte[] body, String idempotencyKey) {
        HttpRequest.Builder request = request(path)
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofByteArray(body));
        if (idempotencyKey != null) {
            request.header("Idempotency-Key", idempotencyKey);
        }
        return send(request.build(), new Tries(true));
    }

    /** Reads something; nothing is published. */
    CompletableFuture<byte[]> get(String path) {
        return send(request(path).GET().build(), new Tries(false));
    }

    private HttpRequest.Builder request(String path) {
        HttpRequest.Builder request = HttpRequest.newBuilder(url.resolve(path))
                .timeout(timeout)
                .header("Accept", "application/json")
                .header("User-Agent", Version.USER_AGENT);
        if (authorization != null) {
            request.header("Authorization", authorization);
        }
        return request;
    }

    private CompletableFuture<byte[]> send(HttpRequest request, Tries tries) {
        CompletableFuture<HttpResponse<byte[]>> sent = http.sendAsync(request, HttpResponse.BodyHandlers.ofByteArray());
        // The time-out of the request ends with the head of the answer.
        CompletableFuture<HttpResponse<byte[]>> limited = sent.copy().orTimeout(timeout.toNanos(), TimeUnit.NANOSECONDS);
        CompletableFuture<CompletableFuture<byte[]>> next = limited.handle((response, failure) -> {
            if (failure == null && response.statusCode() / 100 == 2) {
                return CompletableFuture.completedFuture(response.body());
            }
            sent.cancel(true);
            RealizehitException error = failure == null
                    ? problem(response, tries.publishes)
                    : transportError(Futures.cause(failure), tries.publishes);
            long delay = tries.delayAfter(error);
            if (delay < 0) {
                return CompletableFuture.failedFuture(tries.outcome(error));
            }
            return CompletableFuture.supplyAsync(() -> request, CompletableFuture.delayedExecutor(delay, TimeUnit.NANOSECONDS))
                    .thenCompose(again -> send(again, tries));
        });
        return next.thenCompose(done -> done);
    }

    /** The tries of one request. They follow one another, so it needs no lock. */
    private final class Tries {
        private final Backoff backoff = new Backoff(backoffBase, MAX_BACKOFF);
        private final long start = System.nanoTime();
        private final boolean publishes;
        private int count;
        private PublishUnclearException unclear; // of the latest try that may have published the message

        Tries(boolean publishes) {
            this.publishes = publishes;
        }

        /** Returns the delay in nanoseconds before the next try; negative if there is to be none. */
        long delayAfter(RealizehitException error) {
            count++;
            if (error instanceof PublishUnclearException) {
                unclear = (PublishUnclearException) error;
            }
            if (count == TRIES || !(notPublished(error) || retryUnclear && error == unclear)) {
                return -1;
            }
            Duration asked = error.retryAfter().orElse(Duration.ZERO);
            if (asked.compareTo(timeout) > 0) {
                return -1;
            }
            long delay = asked.toNanos() + backoff.next();
            boolean isLate = System.nanoTime() - start + delay > REPEAT_WITHIN.toNanos();
            return unclear != null && isLate ? -1 : delay;
        }

        /** Returns the error of the request: a try that published nothing does not say that an earlier one did not. */
        RealizehitException outcome(RealizehitException last) {
            return unclear != null && notPublished(last) ? unclear : last;
        }

        private boolean notPublished(RealizehitException error) {
            return error instanceof UnavailableException || error instanceof RateLimitedException;
        }
    }

    /** Tells an error before anything was sent from one after which the message may have been published. */
    private static RealizehitException transportError(Throwable failure, boolean publishes) {
        for (Throwable each = failure; each != null; each = each.getCause()) {
            boolean notSent = each instanceof ConnectException
                    || each instanceof HttpConnectTimeoutException
                    || each instanceof UnresolvedAddressException
                    || each instanceof SSLHandshakeException;
            if (notSent) {
                String text = "the server cannot be reached: " + failure;
                return new UnavailableException(Details.of(text).code("unavailable").cause(failure));
            }
        }
        if (!publishes) {
            String text = "the answer did not come: " + failure;
            return new UnavailableException(Details.of(text).code("unavailable").cause(failure));
        }
        String text = "the answer did not come, and whether the message was published is not known: " + failure;
        return new PublishUnclearException(Details.of(text).code("unavailable").cause(failure));
    }

    /** Reads the problem document of an answer. */
    private static RealizehitException problem(HttpResponse<byte[]> response, boolean publishes) {
        JsonNode document = Json.objectOrNull(response.body());
        String detail = document == null ? "" : Json.field(document, "detail");
        String code = document == null ? "" : Json.field(document, "code");
        int status = response.statusCode();
        Duration retryAfter = response.headers().firstValue("Retry-After").map(HttpSender::retryAfter).orElse(null);
        Details details = Details.of(detail.isEmpty() ? "the server answered with the status " + status : detail)
                .code(code)
                .status(status)
                .retryAfter(retryAfter);
        // By 503 alone the server says that the message may have reached the broker.
        return publishes && status == 503 && retryAfter == null ? new PublishUnclearException(details) : details.refusal();
    }

    /** Reads the header, seconds or a date; null if it is neither. */
    private static Duration retryAfter(String header) {
        try {
            if (header.matches("\\d{1,9}")) {
                return Duration.ofSeconds(Long.parseLong(header));
            }
            ZonedDateTime date = ZonedDateTime.parse(header, DateTimeFormatter.RFC_1123_DATE_TIME);
            Duration left = Duration.between(ZonedDateTime.now(date.getZone()), date);
            return left.isNegative() ? Duration.ZERO : left;
        } catch (DateTimeException error) {
            return null;
        }
    }
}
