package io.github.realizehit.client;

import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/** The version of this package, which the build writes. */
final class Version {
    /** What the requests say about the client. */
    static final String USER_AGENT = "realizehit-java/" + read();

    private Version() {}

    private static String read() {
        try (InputStream stream = Version.class.getResourceAsStream("version.properties")) {
            Properties properties = new Properties();
            properties.load(stream);
            return properties.getProperty("version");
        } catch (IOException error) {
            throw new IllegalStateException("version.properties cannot be read", error);
        }
    }
}
