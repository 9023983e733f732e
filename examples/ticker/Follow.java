// Follow the ticker from Java: `Follow.java AAPL IBM`, or `Follow.java '*'` for all symbols. See README.md beside this file.

import com.fasterxml.jackson.databind.JsonNode;
import io.github.realizehit.client.Message;
import io.github.realizehit.client.WSClient;
import java.util.Locale;
import java.util.Map;

public class Follow {
    public static void main(String[] symbols) throws Exception {
        String url = System.getProperty("ws", "ws://127.0.0.1:8080/ws");
        try (WSClient client = WSClient.connect(url)) {
            for (String symbol : symbols) {
                client.subscription(Map.of("kind", "stock", "symbol", symbol))
                        .onMessage(Follow::print)
                        .onGap(gap -> System.out.println(symbol + ": prices may be missing, " + gap))
                        .subscribe();
            }
            client.ended().get(); // until the server refuses the client, or Ctrl+C
        }
    }

    private static void print(Message message) {
        JsonNode price = message.json();
        String symbol = message.pattern().get("symbol");
        System.out.printf(Locale.ROOT, "%s %-5s %8.2f%n", price.path("date").asText(), symbol, price.path("price").asDouble());
    }
}
