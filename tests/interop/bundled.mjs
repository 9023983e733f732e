// A program that bundlers make one file of. It subscribes over events, publishes, and says what came.
import { APIClient, WSClient } from "realizehit";
import { channel } from "realizehit/pattern";

const [ws, api] = globalThis.addresses; // the bundles run in Node.js, and must not know it
const pattern = { kind: "bundled" };
const client = new WSClient(ws, { WebSocket: undefined });
const subscription = client.subscribe(pattern, (payload) => {
  console.log(JSON.stringify({ channel: channel(pattern), payload }));
  client.close();
});
subscription.subscribe().then(() => new APIClient(api).publish(pattern, { title: "hello" }));
