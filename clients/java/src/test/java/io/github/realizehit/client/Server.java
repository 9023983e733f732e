package io.github.realizehit.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** A realizehit-server with a broker of its own, in another process. */
final class Server implements AutoCloseable {
    private static final Pattern ADDRESS = Pattern.compile("(ws|http)://127\\.0\\.0\\.1:(\\d+)/\\w*");

    private final Process process;
    final String ws;
    final String api;

    private Server(Process process, List<String> addresses) {
        this.process = process;
        this.ws = addresses.get(0);
        this.api = addresses.get(1);
    }

    /** Starts one; a test is skipped if there is no server, unless {@code REALIZEHIT_SERVER} names one. */
    static Server start(String... more) throws IOException {
        String named = System.getenv("REALIZEHIT_SERVER");
        String command = named == null ? "realizehit-server" : named;
        assumeTrue(named != null || onPath(command), "realizehit-server is not installed");
        List<String> words = new ArrayList<>(List.of(command, "--host", "127.0.0.1", "--drain-seconds", "0.1", "--log-level", "warning"));
        words.addAll(List.of(more.length == 0 ? new String[] {"--port", "0"} : more));
        Process process = new ProcessBuilder(words).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        List<String> addresses = new ArrayList<>();
        BufferedReader output = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        while (addresses.size() < 2) {
            String line = output.readLine();
            if (line == null) {
                throw new IOException(command + " ended and printed no addresses");
            }
            Matcher address = ADDRESS.matcher(line);
            if (address.find()) {
                addresses.add(address.group());
            }
        }
        return new Server(process, addresses);
    }

    private static boolean onPath(String command) {
        return Stream.of(System.getenv("PATH").split(":")).anyMatch(folder -> Files.isExecutable(Path.of(folder, command)));
    }

    String port() {
        Matcher address = ADDRESS.matcher(ws);
        assertEquals(true, address.matches());
        return address.group(2);
    }

    /** Ends it as an administrator does; it sends its clients away. */
    @Override
    public void close() {
        process.destroy();
        try {
            process.waitFor();
        } catch (InterruptedException error) {
            process.destroyForcibly();
            Thread.currentThread().interrupt();
        }
    }
}
