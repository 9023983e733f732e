// Receives messages for the load test of the conformance kit: with the client, or with the WebSocket that it is given alone.
import { WSClient } from "../realizehit.js";

const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket; // Node.js before 22 has none
const STEP = 1000; // messages from one line of the output to the next

const [mode, url, wanted, queue] = process.argv.slice(2);
const end = Number(wanted);
let count = 0;

function take() {
  count++;
  if (count % STEP === 0 || count === end) console.log(count);
  if (count === end) process.exit(0);
}

if (mode === "client") {
  const parse = (text) => text; // no program of the load test decodes payloads
  const client = new WSClient(url, { WebSocket, sse: false, maxsize: Number(queue), parse });
  const subscription = client.subscribe({ kind: "load" });
  subscription.on("payload", take);
  await subscription.subscribe();
  console.log("ready");
} else {
  const socket = new WebSocket(url);
  socket.onopen = () => socket.send('{"id":"1","act":"sub","pat":{"kind":"load"}}');
  socket.onmessage = ({ data }) => (data[0] === "{" ? console.log("ready") : take());
}
