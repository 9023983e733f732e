package io.github.realizehit.conformance;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.realizehit.client.APIClient;
import io.github.realizehit.client.ClosedException;
import io.github.realizehit.client.Message;
import io.github.realizehit.client.History;
import io.github.realizehit.client.Outcome;
import io.github.realizehit.client.Pattern;
import io.github.realizehit.client.Publication;
import io.github.realizehit.client.PublishResult;
import io.github.realizehit.client.RawJson;
import io.github.realizehit.client.RealizehitException;
import io.github.realizehit.client.StoredMessage;
import io.github.realizehit.client.Subscription;
import io.github.realizehit.client.SubscriptionBuilder;
import io.github.realizehit.client.WSClient;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** The driver for the conformance kit: the protocol of clients/conformance/README.md, and nothing more. */
public final class Driver {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);

    private final Map<String, WSClient> clients = new ConcurrentHashMap<>();
    private final Map<String, Subscription> subscriptions = new ConcurrentHashMap<>();
    private final Map<String, APIClient> apis = new ConcurrentHashMap<>();

    private Driver() {}

    /**
     * Reads commands until the end of the input.
     *
     * @param arguments none
     * @throws IOException the input cannot be read
     */
    public static void main(String[] arguments) throws IOException {
        Properties version = new Properties();
        try (InputStream stream = WSClient.class.getResourceAsStream("version.properties")) {
            version.load(stream);
        }
        write("hello", fields("protocol", 1, "language", "java", "version", version.getProperty("version")));
        Driver driver = new Driver();
        ExecutorService commands = Executors.newCachedThreadPool();
        try (BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = input.readLine(); line != null; line = input.readLine()) {
                JsonNode command = JSON.readTree(line);
                commands.execute(() -> driver.run(command));
            }
        }
        driver.reset();
        System.exit(0);
    }

    private static Map<String, Object> fields(Object... pairs) {
        Map<String, Object> fields = new LinkedHashMap<>();
        for (int place = 0; place < pairs.length; place += 2) {
            fields.put((String) pairs[place], pairs[place + 1]);
        }
        return fields;
    }

    private static void write(String on, Map<String, Object> fields) {
        Map<String, Object> event = fields("on", on);
        event.putAll(fields);
        try {
            String line = JSON.writeValueAsString(event) + "\n";
            synchronized (OUT) {
                OUT.print(line);
                OUT.flush();
            }
        } catch (JsonProcessingException error) {
            throw new IllegalStateException(error);
        }
    }

    private static JsonNode jsonOf(String text) {
        try {
            return JSON.readTree(text);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static Map<String, Object> errorOf(Throwable error) {
        Map<String, Object> fields = fields("name", error.getClass().getSimpleName(), "code", "", "text", String.valueOf(error.getMessage()));
        if (error instanceof RealizehitException) {
            RealizehitException known = (RealizehitException) error;
            fields.put("code", known.code());
            if (known.status() != 0) {
                fields.put("status", known.status());
            }
        } else if (error instanceof Unsupported) {
            fields.put("code", "unsupported");
        }
        return fields;
    }

    private void run(JsonNode command) {
        int number = command.path("n").asInt();
        try {
            Map<String, Object> answer = carryOut(command);
            answer.put("n", number);
            write("done", answer);
        } catch (InterruptedException | RuntimeException error) {
            write("failed", fields("n", number, "error", errorOf(error)));
        }
    }

    private Map<String, Object> carryOut(JsonNode command) throws InterruptedException {
        Subscription subscription = subscriptions.get(command.path("sub").asText());
        switch (command.path("do").asText()) {
            case "open":
                return open(command);
            case "subscribe":
                return subscribe(command);
            case "next":
                return next(command, subscription);
            case "unsubscribe":
                subscription.unsubscribe();
                return fields();
            case "stats":
                return fields("state", subscription.state().toString(), "dropped", subscription.dropped());
            case "close":
                clients.get(command.path("client").asText()).close();
                return fields();
            case "api":
                return api(command);
            case "publish":
                return resultOf(apis.get(command.path("api").asText()).publish(publicationOf(command)));
            case "publish_many":
                return publishMany(command);
            case "history":
                return history(command, apis.get(command.path("api").asText()));
            case "pattern":
                Pattern pattern = Pattern.of(filtersOf(command.path("pattern")));
                return fields("text", pattern.text(), "id", pattern.id());
            case "reset":
                reset();
                return fields();
            default:
                throw new Unsupported("there is no command " + command.path("do"));
        }
    }

    private Map<String, Object> open(JsonNode command) throws InterruptedException {
        String name = command.path("client").asText();
        JsonNode given = command.path("options");
        WSClient.Builder builder = WSClient.builder(command.path("url").asText())
                .onConnected(() -> write("connected", fields("client", name)))
                .onDisconnected(lost -> write(
                        "disconnected",
                        lost.status() == 0 ? fields("client", name) : fields("client", name, "code", lost.status())))
                .onExpiring(left -> write("expiring", fields("client", name, "seconds", left.toNanos() / 1e9)))
                .onNote(note -> write("note", fields("client", name, "note", jsonOf(note))))
                .onError(error -> write("error", fields("client", name, "error", errorOf(error))));
        time(given, "open_timeout").ifPresent(builder::openTimeout);
        time(given, "response_timeout").ifPresent(builder::responseTimeout);
        time(given, "heartbeat").ifPresent(builder::heartbeat);
        if (given.has("backoff_base") || given.has("backoff_cap")) {
            builder.backoff(
                    time(given, "backoff_base").orElse(Duration.ofMillis(250)), time(given, "backoff_cap").orElse(Duration.ofSeconds(20)));
        }
        if (given.has("queue")) {
            builder.queue(given.path("queue").asInt());
        }
        if (given.has("max_message")) {
            builder.maxMessage(given.path("max_message").asInt());
        }
        if (given.has("token")) {
            builder.token(given.path("token").asText());
        }
        if (given.has("tokens")) {
            builder.token(tokens(name, given.path("tokens")));
        }
        WSClient client = builder.connect();
        clients.put(name, client);
        client.ended().whenComplete((done, error) -> {
            if (error != null) {
                write("ended", fields("client", name, "error", errorOf(error)));
            }
        });
        return fields();
    }

    private static Callable<String> tokens(String client, JsonNode given) {
        Deque<JsonNode> left = new ArrayDeque<>();
        given.forEach(left::add);
        return () -> {
            write("token_asked", fields("client", client));
            JsonNode token = left.size() > 1 ? left.remove() : left.peek();
            if (token.isNull()) {
                throw new IllegalStateException("the case gives no token");
            }
            return token.asText();
        };
    }

    private Map<String, Object> subscribe(JsonNode command) throws InterruptedException {
        String name = command.path("sub").asText();
        boolean decode = command.path("decode").asBoolean();
        String read = command.path("read").asText("callback");
        SubscriptionBuilder builder = clients.get(command.path("client").asText())
                .subscription(filtersOf(command.path("pattern")))
                .onState(state -> write("state", fields("sub", name, "state", state.toString())))
                .onGap(gap -> write(
                        "gap",
                        gap.dropped() > 0
                                ? fields("sub", name, "dropped", gap.dropped())
                                : fields("sub", name, "seconds", gap.duration().toNanos() / 1e9)))
                .onRecovered(() -> write("recovered", fields("sub", name)))
                .onError(error -> write("error", fields("sub", name, "error", errorOf(error))));
        if (command.has("since")) {
            builder.since(command.path("since").asText());
        }
        if (command.has("last")) {
            builder.last(command.path("last").asInt());
        }
        if (command.has("every")) {
            builder.every(Duration.ofMillis(command.path("every").asLong()));
        }
        if (command.path("offsets").asBoolean()) {
            builder.positions();
        }
        if (!read.equals("iterate")) {
            builder.onMessage(message -> {
                tell(name, message, decode);
                if (read.equals("raise")) {
                    throw new IllegalStateException("a callback that fails, as the case says");
                }
            });
        }
        Subscription subscription = builder.subscribe();
        subscriptions.put(name, subscription);
        return fields("id", subscription.id());
    }

    private static void tell(String sub, Message message, boolean decode) {
        Map<String, Object> fields = fields("sub", sub, "text", message.text(), "pattern", message.pattern());
        message.position().ifPresent(position -> fields.put("position", position));
        if (decode) {
            try {
                fields.put("value", message.json());
            } catch (RealizehitException error) {
                write("error", fields("sub", sub, "error", errorOf(error)));
                return;
            }
        }
        write("payload", fields);
    }

    private static Map<String, Object> next(JsonNode command, Subscription subscription) throws InterruptedException {
        int wanted = command.path("count").asInt(1);
        Duration timeout = time(command, "timeout").orElse(Duration.ofSeconds(5));
        for (int count = 0; count < wanted; count++) {
            try {
                Optional<Message> message = subscription.next(timeout);
                if (message.isEmpty()) {
                    return fields("count", count, "ended", false);
                }
                tell(command.path("sub").asText(), message.get(), command.path("decode").asBoolean());
            } catch (ClosedException ended) {
                return fields("count", count, "ended", true);
            }
        }
        return fields("count", wanted, "ended", false);
    }

    private Map<String, Object> api(JsonNode command) {
        JsonNode given = command.path("options");
        APIClient.Builder builder = APIClient.builder(command.path("url").asText());
        if (given.has("key")) {
            builder.key(given.path("key").asText());
        }
        time(given, "timeout").ifPresent(builder::timeout);
        time(given, "backoff_base").ifPresent(builder::backoffBase);
        apis.put(command.path("api").asText(), builder.build());
        return fields();
    }

    private Map<String, Object> publishMany(JsonNode command) throws InterruptedException {
        List<Publication> messages = new ArrayList<>();
        command.path("messages").forEach(message -> messages.add(publicationOf(message)));
        List<Map<String, Object>> outcomes = new ArrayList<>();
        for (Outcome outcome : apis.get(command.path("api").asText()).publishMany(messages)) {
            outcomes.add(outcome.error().map(error -> fields("error", errorOf(error))).orElseGet(() -> resultOf(outcome.get())));
        }
        return fields("outcomes", outcomes);
    }

    private static Map<String, Object> history(JsonNode command, APIClient api) throws InterruptedException {
        Map<String, Object> pattern = filtersOf(command.path("pattern"));
        History found = command.has("since")
                ? api.since(pattern, command.path("since").asText())
                : api.last(pattern, command.path("last").asInt());
        List<Map<String, Object>> messages = new ArrayList<>();
        for (StoredMessage each : found.messages()) {
            Map<String, Object> message = fields("text", each.json().toString(), "position", each.position());
            each.pattern().ifPresent(filters -> message.put("pattern", filters));
            messages.add(message);
        }
        Map<String, Object> fields = fields("messages", messages, "at", found.at(), "first", found.first(), "more", found.more());
        found.recovered().ifPresent(recovered -> fields.put("recovered", recovered));
        return fields;
    }

    private static Publication publicationOf(JsonNode given) {
        Object payload = given.has("text") ? RawJson.of(given.path("text").asText()) : given.get("payload");
        Publication publication = Publication.of(filtersOf(given.path("pattern")), payload);
        return given.has("key") ? publication.withKey(given.path("key").asText()) : publication;
    }

    private static Map<String, Object> resultOf(PublishResult result) {
        Map<String, Object> fields = fields("id", result.id(), "nodes", result.nodes());
        result.at().ifPresent(at -> fields.put("at", at));
        if (result.duplicate()) {
            fields.put("duplicate", true);
        }
        return fields;
    }

    /** Returns what the case gives as a pattern, which the client itself is to judge; the language has only maps. */
    private static Map<String, Object> filtersOf(JsonNode pattern) {
        Map<String, Object> filters = new LinkedHashMap<>();
        pattern.properties().forEach(filter -> filters.put(filter.getKey(), JSON.convertValue(filter.getValue(), Object.class)));
        return pattern.isObject() ? filters : null;
    }

    private static Optional<Duration> time(JsonNode options, String name) {
        return Optional.ofNullable(options.get(name)).map(seconds -> Duration.ofNanos((long) (seconds.asDouble() * 1e9)));
    }

    private void reset() {
        List<WSClient> open = new ArrayList<>(clients.values());
        clients.clear();
        subscriptions.clear();
        apis.clear();
        open.forEach(WSClient::close);
    }

    /** The client has no such feature. */
    private static final class Unsupported extends RuntimeException {
        private static final long serialVersionUID = 1L;

        Unsupported(String text) {
            super(text);
        }
    }
}
