// Follow the ticker from Node.js: node examples/ticker/follow.mjs [--ws URL] [SYMBOL...]
import { parseArgs } from "node:util";

import { WSClient } from "../../clients/js/realizehit.js";

const { values, positionals } = parseArgs({
  options: { ws: { type: "string", default: "ws://127.0.0.1:8080/ws" } },
  allowPositionals: true,
});
const WebSocket = globalThis.WebSocket ?? (await import("../../clients/js/node_modules/ws/wrapper.mjs")).default; // before version 22
const client = new WSClient(values.ws, { WebSocket });
client.on("error", (error) => console.error(error.message));
for (const symbol of positionals.length ? positionals : ["*"]) {
  const subscription = client.subscribe({ kind: "stock", symbol: symbol.toUpperCase() });
  subscription.on("payload", ({ date, price }, { pattern }) => {
    console.log(`${date}  ${pattern.symbol.padEnd(5)} ${price.toFixed(2).padStart(8)}`);
  });
  subscription.on("gap", (seconds) => console.error(`${symbol}: prices of ${seconds.toFixed(1)} s may be missing`));
}
