package io.github.realizehit.client;

import io.github.realizehit.client.RealizehitException.Details;
import java.net.http.HttpClient;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/** Gets a token and opens WebSockets. */
final class Dialer {
    private static final Duration GRACE = Duration.ofSeconds(1); // for the library to tell its own time-out

    private final WSClient.Builder options;
    private final HttpClient http;
    private final Executor executor;

    /**
     * @param options the settings of the client
     * @param executor runs the function of the program that returns a token
     */
    Dialer(WSClient.Builder options, Executor executor) {
        this.options = options;
        this.executor = executor;
        HttpClient.Builder builder = HttpClient.newBuilder().connectTimeout(options.openTimeout);
        options.http.accept(builder);
        // What comes is handled on the thread that reads it, which never blocks. With another executor the library can lose
        // the end of a connection that comes while a message is being handled, and then says nothing about it.
        this.http = builder.executor(Runnable::run).build();
    }

    /** Returns a token; null if the client has none. It fails with a {@link TokenException}. */
    CompletableFuture<String> token() {
        if (options.token == null) {
            return CompletableFuture.completedFuture(null);
        }
        return CompletableFuture.supplyAsync(
                () -> {
                    try {
                        return Addresses.visible(options.token.call(), "the token");
                    } catch (Exception | LinkageError | AssertionError | StackOverflowError error) {
                        throw new TokenException(Details.of("there is no token: " + error).cause(error));
                    }
                },
                executor);
    }

    /** Opens a WebSocket; what comes goes to the connection once that is opened. */
    CompletableFuture<WebSocket> dial(Connection connection) {
        return token().thenCompose(token -> {
            WebSocket.Builder builder = http.newWebSocketBuilder()
                    .connectTimeout(options.openTimeout)
                    .header("User-Agent", Version.USER_AGENT);
            if (token != null) {
                builder.header("Authorization", "Bearer " + token);
            }
            return builder.buildAsync(options.url, connection)
                    .orTimeout(options.openTimeout.toNanos() + GRACE.toNanos(), TimeUnit.NANOSECONDS);
        }).handle((socket, failure) -> {
            if (failure != null) {
                throw told(failure);
            }
            return socket;
        });
    }

    /** Returns the exception that a program is told of a failure, whatever it is. */
    static RealizehitException told(Throwable failure) {
        Throwable cause = Futures.cause(failure);
        return cause instanceof RealizehitException ? (RealizehitException) cause : refusal(cause);
    }

    private static RealizehitException refusal(Throwable failure) {
        if (!(failure instanceof WebSocketHandshakeException)) {
            return new DisconnectedException(Details.of("there is no connection: " + failure).cause(failure));
        }
        HttpResponse<?> response = ((WebSocketHandshakeException) failure).getResponse();
        int status = response.statusCode();
        Duration retryAfter = response.headers()
                .firstValue("Retry-After")
                .filter(header -> header.matches("\\d{1,6}"))
                .map(header -> Duration.ofSeconds(Long.parseLong(header)))
                .orElse(null);
        Details details = Details.of("the server answered the handshake with the status " + status)
                .status(status)
                .retryAfter(retryAfter)
                .cause(failure);
        switch (status) {
            case 401:
                return details.code("not-authenticated").refusal();
            case 403:
                return details.code("forbidden").refusal();
            case 503:
                return details.code("unavailable").refusal();
            default:
                return new DisconnectedException(details);
        }
    }
}
