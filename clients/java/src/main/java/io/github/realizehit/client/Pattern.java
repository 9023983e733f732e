package io.github.realizehit.client;

import io.github.realizehit.client.RealizehitException.Details;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;

/**
 * A valid pattern: a set of filters, such as {@code kind: news, channel: CNN}.
 *
 * <p>The clients take patterns as maps, such as {@code Map.of("kind", "news", "channel", "CNN")}, and check them by this
 * class. A value is a text, a number, or a boolean. The value {@code *} stands for any value, and the filter {@code *: *}
 * for any further filters; only subscriptions may have these.
 */
public final class Pattern {
    private static final int MAX_FILTERS = 16;
    private static final int MAX_KEY = 64; // encoded bytes, as the next two
    private static final int MAX_VALUE = 256;
    private static final int MAX_TEXT = 1024;
    private static final BigInteger MIN_INTEGER = BigInteger.ONE.shiftLeft(63).negate();
    private static final BigInteger MAX_INTEGER = BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE);
    private static final char[] HEX = "0123456789ABCDEF".toCharArray();

    private final Map<String, Object> filters;
    private final String text;
    private final boolean wildcard;

    private Pattern(Map<String, Object> filters, String text, boolean wildcard) {
        this.filters = filters;
        this.text = text;
        this.wildcard = wildcard;
    }

    /**
     * Checks a pattern.
     *
     * @param filters the filters; the order makes no difference
     * @return the pattern
     * @throws BadPatternException it breaks a rule; the text names the filter
     */
    public static Pattern of(Map<String, ?> filters) {
        if (filters == null || filters.isEmpty()) {
            throw bad("a pattern needs at least one filter");
        }
        if (filters.size() > MAX_FILTERS) {
            throw bad("a pattern has at most " + MAX_FILTERS + " filters, this one has " + filters.size());
        }
        Map<String, Object> wire = new LinkedHashMap<>();
        Map<String, String> encoded = new TreeMap<>();
        boolean wildcard = false;
        for (Map.Entry<String, ?> filter : filters.entrySet()) {
            String key = filter.getKey();
            Object value = filter.getValue();
            if (key == null || key.isEmpty()) {
                throw bad("a key is empty");
            }
            boolean any = "*".equals(value);
            if (key.equals("*") && !any) {
                throw bad("the key * takes only the value *");
            }
            wildcard |= any;
            String name = key.equals("*") ? key : encode(key, MAX_KEY, key, "key");
            encoded.put(name, any ? "*" : encode(valueText(key, value), MAX_VALUE, key, "value of the key"));
            wire.put(key, isJsonValue(value) ? value : valueText(key, value));
        }
        StringBuilder text = new StringBuilder();
        encoded.forEach((key, value) -> text.append(text.length() == 0 ? "" : "|").append(key).append(':').append(value));
        if (text.length() > MAX_TEXT) {
            throw bad("the pattern has " + text.length() + " encoded bytes, at most " + MAX_TEXT + " are allowed");
        }
        return new Pattern(Collections.unmodifiableMap(wire), text.toString(), wildcard);
    }

    /**
     * Returns the canonical text, such as {@code channel:CNN|kind:news}. It is the name of the channel at the broker.
     *
     * @return the text
     */
    public String text() {
        return text;
    }

    /**
     * Returns the label on the wire: the first eight hexadecimal digits of the MD5 of the canonical text. Different
     * patterns can have the same label.
     *
     * @return the label
     */
    public String id() {
        try {
            byte[] digest = MessageDigest.getInstance("MD5").digest(text.getBytes(StandardCharsets.US_ASCII));
            StringBuilder id = new StringBuilder();
            for (int place = 0; place < 4; place++) {
                id.append(String.format("%02x", digest[place]));
            }
            return id.toString();
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("this Java runtime has no MD5", error);
        }
    }

    /**
     * Says whether this is a wildcard: whether a value is {@code *}.
     *
     * @return whether it is
     */
    public boolean isWildcard() {
        return wildcard;
    }

    /** Returns the filters as they are sent. */
    Map<String, Object> filters() {
        return filters;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Pattern && ((Pattern) other).text.equals(text);
    }

    @Override
    public int hashCode() {
        return text.hashCode();
    }

    @Override
    public String toString() {
        return text;
    }

    /**
     * Reads a canonical text.
     *
     * @param text the text; empty if a label has none
     * @return the filters, their values as texts
     * @throws IllegalArgumentException the text is malformed
     */
    static Map<String, String> parse(String text) {
        Map<String, String> filters = new LinkedHashMap<>();
        for (String filter : text.split("\\|", -1)) {
            int colon = filter.indexOf(':');
            if (colon < 1 || colon == filter.length() - 1) {
                throw new IllegalArgumentException("a filter has no key or no value");
            }
            filters.put(decode(filter.substring(0, colon)), decode(filter.substring(colon + 1)));
        }
        return Collections.unmodifiableMap(filters);
    }

    private static boolean isJsonValue(Object value) {
        return value instanceof String
                || value instanceof Boolean
                || value instanceof Integer
                || value instanceof Long
                || value instanceof Double;
    }

    private static String valueText(String key, Object value) {
        if (value instanceof String || value instanceof Boolean) {
            return value.toString();
        }
        if (value instanceof Integer || value instanceof Long || value instanceof Short || value instanceof Byte) {
            return value.toString();
        }
        if (value instanceof BigInteger) {
            BigInteger integer = (BigInteger) value;
            boolean fits = integer.compareTo(MIN_INTEGER) >= 0 && integer.compareTo(MAX_INTEGER) <= 0;
            return fits ? integer.toString() : number(key, integer.doubleValue());
        }
        if (value instanceof Float) {
            return number(key, Double.parseDouble(value.toString())); // 0.1f is 0.1
        }
        if (value instanceof Number) {
            return number(key, ((Number) value).doubleValue());
        }
        String found = value == null ? "null" : "a " + value.getClass().getSimpleName();
        throw bad("the value of the key " + shown(key) + " is " + found + "; a text, number or boolean is needed");
    }

    private static String number(String key, double number) {
        if (Double.isNaN(number) || Double.isInfinite(number)) {
            throw bad("the value of the key " + shown(key) + " is not a finite number");
        }
        return EcmaNumber.text(number);
    }

    private static String encode(String plain, int most, String key, String what) {
        if (plain.isEmpty()) {
            throw bad("the " + what + " " + shown(key) + " is empty");
        }
        StringBuilder encoded = new StringBuilder(plain.length());
        for (int place = 0; place < plain.length() && encoded.length() <= most; ) {
            int point = plain.codePointAt(place);
            place += Character.charCount(point);
            if (isUnreserved(point)) {
                encoded.append((char) point);
                continue;
            }
            if (point >= Character.MIN_SURROGATE && point <= Character.MAX_SURROGATE) {
                throw bad("the " + what + " " + shown(key) + " has a lone surrogate");
            }
            for (byte each : new String(Character.toChars(point)).getBytes(StandardCharsets.UTF_8)) {
                encoded.append('%').append(HEX[(each >> 4) & 15]).append(HEX[each & 15]);
            }
        }
        if (encoded.length() > most) {
            throw bad("the " + what + " " + shown(key) + " has more than " + most + " encoded bytes");
        }
        return encoded.toString();
    }

    private static boolean isUnreserved(int point) {
        return point >= '0' && point <= '9'
                || point >= 'A' && point <= 'Z'
                || point >= 'a' && point <= 'z'
                || point == '-'
                || point == '.'
                || point == '_'
                || point == '~';
    }

    private static String decode(String encoded) {
        if (encoded.indexOf('%') < 0) {
            return encoded;
        }
        byte[] bytes = new byte[encoded.length()];
        int count = 0;
        for (int place = 0; place < encoded.length(); place++) {
            char each = encoded.charAt(place);
            if (each != '%') {
                bytes[count++] = (byte) each;
                continue;
            }
            int high = place + 2 < encoded.length() ? Character.digit(encoded.charAt(place + 1), 16) : -1;
            int low = high < 0 ? -1 : Character.digit(encoded.charAt(place + 2), 16);
            if (low < 0) {
                throw new IllegalArgumentException("a percent sign is not followed by two hexadecimal digits");
            }
            bytes[count++] = (byte) (high * 16 + low);
            place += 2;
        }
        return new String(bytes, 0, count, StandardCharsets.UTF_8);
    }

    private static String shown(String key) {
        return "\"" + (key.length() > 40 ? key.substring(0, 40) + "…" : key) + "\"";
    }

    private static BadPatternException bad(String text) {
        return new BadPatternException(Details.of(text).code("bad-pattern"));
    }
}
