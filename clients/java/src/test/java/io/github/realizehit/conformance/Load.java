package io.github.realizehit.conformance;

import io.github.realizehit.client.WSClient;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;

/**
 * Receives messages for the load test of the conformance kit: with the client, or with the JDK's WebSocket alone.
 */
public final class Load {
    private static final int STEP = 1000; // messages from one line of the output to the next

    private final CountDownLatch finished = new CountDownLatch(1);
    private final int end;
    private int count;

    private Load(int end) {
        this.end = end;
    }

    /**
     * Receives.
     *
     * @param args {@code client} or {@code plain}, the address, the number of messages, and how many may wait
     * @throws Exception it cannot
     */
    public static void main(String[] args) throws Exception {
        Load load = new Load(Integer.parseInt(args[2]));
        if (args[0].equals("client")) {
            load.client(args[1], Integer.parseInt(args[3]));
        } else {
            load.plain(args[1]);
        }
        System.exit(0);
    }

    private void take() {
        count++;
        if (count % STEP == 0 || count == end) {
            System.out.println(count);
        }
        if (count == end) {
            finished.countDown();
        }
    }

    private void client(String address, int queue) throws Exception {
        try (WSClient client = WSClient.builder(address).queue(queue).connect()) {
            client.subscription(Map.of("kind", "load")).onMessage(message -> take()).subscribe();
            System.out.println("ready");
            finished.await();
        }
    }

    private void plain(String address) throws Exception {
        WebSocket socket = HttpClient.newHttpClient()
                .newWebSocketBuilder()
                .buildAsync(URI.create(address), new Listener())
                .join();
        socket.sendText("{\"id\":\"1\",\"act\":\"sub\",\"pat\":{\"kind\":\"load\"}}", true);
        finished.await();
        socket.abort();
    }

    private final class Listener implements WebSocket.Listener {
        private final StringBuilder parts = new StringBuilder();

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
            parts.append(data);
            if (last) {
                String message = parts.toString();
                parts.setLength(0);
                if (message.startsWith("{")) {
                    System.out.println("ready");
                } else {
                    take();
                }
            }
            socket.request(1);
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            System.err.println(error);
            finished.countDown();
        }
    }
}
