package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

final class PatternTest {
    /** The cases that all implementations share. They are in the repository, and not in a copy of this folder alone. */
    private static JsonNode vectors(String group) throws IOException {
        Path file = Path.of("..", "..", "tests", "vectors.json");
        assumeTrue(Files.exists(file), "the test vectors are in the repository");
        JsonNode rows = Json.MAPPER.readTree(Files.readString(file)).path(group);
        assertFalse(rows.isEmpty());
        return rows;
    }

    private static Map<String, Object> filtersOf(JsonNode pattern) {
        Map<String, Object> filters = new HashMap<>();
        pattern.properties().forEach(each -> filters.put(each.getKey(), Json.MAPPER.convertValue(each.getValue(), Object.class)));
        return pattern.isObject() ? filters : null;
    }

    @Test
    void validPatternsHaveTheSharedTextAndId() throws IOException {
        for (JsonNode row : vectors("valid")) {
            Pattern pattern = Pattern.of(filtersOf(row.path("in")));
            assertEquals(row.path("channel").asText(), pattern.text());
            assertEquals(row.path("id").asText(), pattern.id());
            assertFalse(pattern.isWildcard());
            assertEquals(pattern, Pattern.of(Pattern.parse(pattern.text())));
        }
    }

    @Test
    void wildcardsHaveTheSharedTextAndId() throws IOException {
        for (String group : new String[] {"subscription_only", "wildcards"}) {
            for (JsonNode row : vectors(group)) {
                Pattern pattern = Pattern.of(filtersOf(row.path("in")));
                assertEquals(row.path("channel").asText(), pattern.text());
                assertEquals(row.path("id").asText(), pattern.id());
                assertTrue(pattern.isWildcard());
            }
        }
    }

    @Test
    void invalidPatternsAreRefused() throws IOException {
        for (JsonNode row : vectors("invalid")) {
            Map<String, Object> filters = filtersOf(row.path("in"));
            BadPatternException error = assertThrows(BadPatternException.class, () -> Pattern.of(filters), row.toString());
            assertEquals("bad-pattern", error.code());
        }
    }

    @Test
    void anErrorNamesTheFilter() {
        BadPatternException error = assertThrows(BadPatternException.class, () -> Pattern.of(Map.of("user", "")));
        assertTrue(error.getMessage().contains("\"user\""), error.getMessage());
        assertThrows(BadPatternException.class, () -> Pattern.of(Collections.singletonMap("user", null)));
        assertThrows(BadPatternException.class, () -> Pattern.of(Map.of("user", "\ud800")));
        assertThrows(BadPatternException.class, () -> Pattern.of(Map.of("user", Double.NaN)));
    }

    @Test
    void javaNumbersAreWhatTheySay() {
        assertEquals("a:0.1", Pattern.of(Map.of("a", 0.1f)).text());
        assertEquals("a:3", Pattern.of(Map.of("a", new BigDecimal("3.00"))).text());
        assertEquals("a:18446744073709551615", Pattern.of(Map.of("a", new BigInteger("18446744073709551615"))).text());
        assertEquals("a:18446744073709552000", Pattern.of(Map.of("a", new BigInteger("18446744073709551616"))).text());
        assertEquals("a:-7", Pattern.of(Map.of("a", (short) -7)).text());
    }

    @ParameterizedTest
    @CsvSource({
        "5e-324, 4.9e-324",
        "1.7976931348623157e+308, 1.7976931348623157e308",
        "5.684341886080802e-14, 5.684341886080802e-14", // 2^-44: its nearest decimal of 16 digits is read as another number
        "9007199254740992, 9007199254740992",
        "2e-44, 2.0e-44",
        "123456789012345680000, 123456789012345678901",
        "1e+21, 1e21",
        "0.000001, 1e-6",
        "1e-7, 1e-7",
        "0, -0.0",
        "-1.5, -1.5",
    })
    void numbersAreWrittenAsEcmaScriptDoes(String text, double number) {
        assertEquals(text, EcmaNumber.text(number));
    }

    @Test
    void everyNumberIsReadBack() {
        Random random = new Random(1);
        for (int count = 0; count < 2000; count++) {
            double number = Double.longBitsToDouble(random.nextLong());
            if (!Double.isNaN(number) && !Double.isInfinite(number)) {
                assertEquals(number, Double.parseDouble(EcmaNumber.text(number)));
            }
        }
    }

    @Test
    void malformedChannelsAreFound() {
        for (String text : new String[] {"", "a", "a:", ":b", "a:%zz", "a:%4", "a:b|"}) {
            assertThrows(IllegalArgumentException.class, () -> Pattern.parse(text), text);
        }
    }
}
