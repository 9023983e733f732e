// The JavaScript client of the soak. Arguments: the path of the client, the address, the transport, the subscriptions as JSON.
// It writes each event as a line of JSON: the index of the subscription, the kind, the time by the clock that Python's
// `time.monotonic` has too, since the lines may be read late, and what belongs to it.
import { pathToFileURL } from "node:url";
import { createInterface } from "node:readline";

const [path, url, transport, wanted] = process.argv.slice(2);
const { WSClient } = await import(pathToFileURL(path));
const options = { backoffBase: 100, backoffCap: 1000, heartbeat: 3000 };
if (transport === "sse") {
  // Without a WebSocket the client takes event streams.
  globalThis.WebSocket = undefined;
} else {
  Object.assign(options, { sse: false, WebSocket: (await import("ws")).WebSocket });
}

const client = new WSClient(url, options);
client.on("error", () => {}); // it connects again by itself
const write = (index, kind, fields) => {
  const when = Number(process.hrtime.bigint()) / 1e9;
  process.stdout.write(`${JSON.stringify({ index, kind, when, ...fields })}\n`);
};

JSON.parse(wanted).forEach(({ pattern, offsets }, index) => {
  const subscription = client.subscribe(pattern, { offsets });
  subscription.on("payload", ([serial], { position }) => write(index, "came", { serial, position }));
  subscription.on("subscribed", () => write(index, "subscribed", { position: subscription.position }));
  subscription.on("recovered", () => write(index, "recovered", { position: subscription.position }));
  subscription.on("gap", (seconds) => write(index, "gap", { seconds }));
  subscription.on("error", (error) => write(index, "error", { text: `${error}` }));
});

createInterface({ input: process.stdin }).on("close", () => process.exit());
