package io.github.realizehit.client;

import java.net.URI;
import java.net.URISyntaxException;
import java.time.Duration;

/** Checks of settings. */
final class Addresses {
    private Addresses() {}

    /** Returns an address of a scheme, or of the same with TLS. The text of the exception does not hold the address. */
    static URI of(String address, String scheme, String form) {
        try {
            URI uri = new URI(address);
            boolean known = scheme.equalsIgnoreCase(uri.getScheme()) || (scheme + "s").equalsIgnoreCase(uri.getScheme());
            if (known && uri.getHost() != null) {
                return uri;
            }
        } catch (URISyntaxException error) {
            // The message of this exception holds the address, which may hold a password.
        }
        throw new IllegalArgumentException("the address is not of the form " + form);
    }

    /** Returns a text that may stand in a header. */
    static String visible(String text, String name) {
        if (text.isEmpty() || !text.chars().allMatch(each -> each > ' ' && each <= '~')) {
            throw new IllegalArgumentException(name + " is empty or has a character that is not visible ASCII");
        }
        return text;
    }

    static Duration positive(Duration given, String name) {
        if (given.isNegative() || given.isZero()) {
            throw new IllegalArgumentException(name + " is not positive");
        }
        return given;
    }

    static int positive(int given, String name) {
        if (given <= 0) {
            throw new IllegalArgumentException(name + " is not positive");
        }
        return given;
    }
}
