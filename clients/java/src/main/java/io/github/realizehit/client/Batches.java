package io.github.realizehit.client;

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.RealizehitException.Details;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.List;

/** Publications as the bodies of requests. */
final class Batches {
    private static final int MAX_MESSAGES = 10_000; // of one batch, the bound of the server
    private static final int MAX_BYTES = (4 << 20) - 64; // of its messages; 64 bytes for what stands around them
    private static final SecureRandom RANDOM = new SecureRandom();

    private Batches() {}

    /** Returns the idempotency key of a message; a new one of 128 random bits if it has none. */
    static String keyOf(Publication message) {
        String given = message.key();
        if (given == null) {
            byte[] random = new byte[16];
            RANDOM.nextBytes(random);
            StringBuilder key = new StringBuilder(32);
            for (byte each : random) {
                key.append(Character.forDigit((each >> 4) & 15, 16)).append(Character.forDigit(each & 15, 16));
            }
            return key.toString();
        }
        boolean visible = given.chars().allMatch(each -> each > ' ' && each <= '~');
        if (given.isEmpty() || given.length() > 64 || !visible) {
            throw new RejectedException(
                    Details.of("an idempotency key has 1 to 64 visible characters of ASCII").code("bad-request"));
        }
        return given;
    }

    /** Returns a message as JSON, with an idempotency key if it is not null. */
    static byte[] encode(Publication message, String key) {
        ByteArrayOutputStream body = new ByteArrayOutputStream(256);
        write(body, "{\"pattern\":");
        body.writeBytes(Json.bytes(Pattern.of(message.pattern()).filters()));
        write(body, ",\"payload\":");
        body.writeBytes(Json.payload(message.payload()));
        if (key != null) {
            write(body, ",\"key\":");
            body.writeBytes(Json.bytes(key));
        }
        write(body, "}");
        return body.toByteArray();
    }

    /** Divides messages into batches. Those that cannot be sent get their outcome at once. */
    static List<Batch> of(List<Publication> messages, Outcome[] outcomes) {
        List<Batch> batches = new ArrayList<>();
        Batch batch = null;
        for (int place = 0; place < outcomes.length; place++) {
            byte[] item;
            try {
                Publication message = messages.get(place);
                item = encode(message, keyOf(message));
                if (item.length > MAX_BYTES) {
                    throw new TooLargeException(Details.of("the message has " + item.length + " bytes, more than a batch may have")
                            .code("too-large"));
                }
            } catch (RealizehitException error) {
                outcomes[place] = new Outcome(null, error);
                continue;
            }
            if (batch == null || !batch.hasRoom(item.length)) {
                batch = new Batch();
                batches.add(batch);
            }
            batch.add(item, place);
        }
        return batches;
    }

    private static void write(ByteArrayOutputStream body, String text) {
        body.writeBytes(text.getBytes(StandardCharsets.US_ASCII));
    }

    /** Messages that go in one request. */
    static final class Batch {
        private final ByteArrayOutputStream items = new ByteArrayOutputStream();
        private final List<Integer> places = new ArrayList<>(); // in the caller's list

        private boolean hasRoom(int bytes) {
            return places.size() < MAX_MESSAGES && items.size() + bytes + 1 <= MAX_BYTES;
        }

        private void add(byte[] item, int place) {
            write(items, places.isEmpty() ? "{\"messages\":[" : ",");
            items.writeBytes(item);
            places.add(place);
        }

        byte[] body() {
            write(items, "]}");
            return items.toByteArray();
        }

        void fail(RealizehitException error, Outcome[] outcomes) {
            places.forEach(place -> outcomes[place] = new Outcome(null, error));
        }

        /** Takes the answer of the server. */
        void answered(byte[] answer, Outcome[] outcomes) {
            JsonNode read = Json.objectOrNull(answer);
            JsonNode results = read == null ? null : read.get("results");
            if (results == null || !results.isArray() || results.size() != places.size()) {
                throw new RejectedException(Details.of("the answer to a batch is not understood"));
            }
            for (int number = 0; number < places.size(); number++) {
                JsonNode result = results.get(number);
                boolean queued = Json.field(result, "status").equals("queued");
                outcomes[places.get(number)] = queued ? new Outcome(new PublishResult(result), null) : new Outcome(null, refusal(result));
            }
        }

        private static RealizehitException refusal(JsonNode result) {
            return Details.of(Json.field(result, "detail")).code(Json.field(result, "code")).refusal();
        }
    }
}
