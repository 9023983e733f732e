package io.github.realizehit.client;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import io.github.realizehit.client.RealizehitException.Details;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** Reading and writing JSON. */
final class Json {
    /** Reads and writes everything; the bounds of sizes are those of the server and of the WebSocket. */
    static final ObjectMapper MAPPER = JsonMapper.builder(new JsonFactory())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    static {
        MAPPER.getFactory()
                .setStreamReadConstraints(StreamReadConstraints.builder()
                        .maxNumberLength(Integer.MAX_VALUE)
                        .maxStringLength(Integer.MAX_VALUE)
                        .build());
    }

    private Json() {}

    /** Returns the JSON of a payload; of a {@link RawJson} its text as it is. */
    static byte[] payload(Object payload) {
        if (payload instanceof RawJson) {
            return checked(payload.toString());
        }
        try {
            return MAPPER.writeValueAsBytes(payload);
        } catch (JsonProcessingException error) {
            throw badPayload("the payload cannot be written as JSON: " + error.getOriginalMessage(), "bad-request", error);
        }
    }

    /** Returns the bytes of a text that is JSON. */
    private static byte[] checked(String text) {
        try (JsonParser parser = MAPPER.getFactory().createParser(text)) {
            if (parser.nextToken() == null) {
                throw badPayload("the payload is not JSON: it is empty", "bad-json", null);
            }
            parser.skipChildren();
            if (parser.nextToken() != null) {
                throw badPayload("the payload is not JSON: there is something behind its end", "bad-json", null);
            }
            ByteBuffer encoded = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
            byte[] bytes = new byte[encoded.remaining()];
            encoded.get(bytes);
            return bytes;
        } catch (CharacterCodingException error) {
            throw badPayload("the payload has a lone surrogate", "bad-json", error);
        } catch (IOException error) {
            throw badPayload("the payload is not JSON: " + reason(error), "bad-json", error);
        }
    }

    /** Returns the JSON of a value of this package. */
    static byte[] bytes(Object value) {
        try {
            return MAPPER.writeValueAsBytes(value);
        } catch (JsonProcessingException error) {
            throw badPayload("this cannot be written as JSON: " + error.getOriginalMessage(), "bad-request", error);
        }
    }

    /** Returns the JSON of a value of this package, as a text. */
    static String text(Object value) {
        return new String(bytes(value), StandardCharsets.UTF_8);
    }

    /** Reads an object; null if it is another thing or not JSON. */
    static JsonNode objectOrNull(byte[] json) {
        try {
            JsonNode read = MAPPER.readTree(json);
            return read != null && read.isObject() ? read : null;
        } catch (IOException error) {
            return null;
        }
    }

    /** Reads an object; null if it is another thing or not JSON. */
    static JsonNode objectOrNull(String json) {
        try {
            JsonNode read = MAPPER.readTree(json);
            return read != null && read.isObject() ? read : null;
        } catch (JsonProcessingException error) {
            return null;
        }
    }

    /** Returns the text of a field; empty if it has none. */
    static String field(JsonNode object, String name) {
        JsonNode field = object.get(name);
        return field != null && field.isTextual() ? field.textValue() : "";
    }

    /** Reads a payload. */
    static <T> T read(String text, Class<T> type) {
        try {
            return MAPPER.readValue(text, type);
        } catch (JsonProcessingException error) {
            throw badPayload("the payload cannot be read: " + error.getOriginalMessage(), "bad-json", error);
        }
    }

    private static String reason(IOException error) {
        return error instanceof JsonProcessingException
                ? ((JsonProcessingException) error).getOriginalMessage()
                : error.getMessage();
    }

    private static BadPayloadException badPayload(String text, String code, Throwable cause) {
        return new BadPayloadException(Details.of(text).code(code).cause(cause));
    }
}
