// What a TypeScript program sees, checked against the generated declarations by `npm run check`; it is never run.
import { APIClient, RealizehitError, Subscription, WSClient } from "realizehit";
import { channel, PatternError } from "realizehit/pattern";

const client: WSClient = new WSClient("wss://example.org/ws", { parse: (text) => text, sse: false, maxsize: 10 });
const subscription: Subscription = client
  .subscribe({ kind: "news", page: 3, live: true }, (payload) => console.log(payload.title))
  .on("payload", (payload) => console.log(payload))
  .on("gap", (seconds) => seconds.toFixed(1))
  .once("error", (error) => error.message)
  .off("subscribed", () => {});
client.on("connected", (kind) => kind === "sse").on("disconnect", (error) => error.status + error.code.length);

async function read(): Promise<void> {
  await subscription.subscribe();
  for await (const payload of subscription) console.log(payload, subscription.gaps, subscription.state === "subscribed");
  await client.unsubscribe({ kind: "news" });
}

async function publish(): Promise<number> {
  const { nodes } = await new APIClient("https://example.org/", { key: "k" }).publish({ kind: "news" }, [1]);
  return nodes;
}

const text: string = channel({ kind: "news", n: 1n }, { wildcard: true });
const errors: Error[] = [new RealizehitError("no", "forbidden", 403), new PatternError("no")];

// @ts-expect-error there is no such event
client.on("message", () => {});
// @ts-expect-error no such value in a pattern
client.subscribe({ kind: null });
// @ts-expect-error a subscription's payload event carries one value
subscription.on("payload", (one, two) => [one, two]);

export { errors, publish, read, text };
