// The types that a TypeScript program sees. `npm run check` compiles it; it is never run.
import { APIClient, RealizehitError, Subscription, WSClient } from "realizehit";
import { APIClient as FullClient, RawJSON, RateLimited, type PublishOutcome } from "realizehit/api";
import { channel, id, PatternError } from "realizehit/pattern";
import { WSClient as ByPath } from "../realizehit.js";
import { WSClient as ByFolder } from "../lib/cjs/realizehit.js";

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

interface News {
  title: string;
  page?: number;
}

async function readNews(): Promise<string> {
  const news: Subscription<News> = client.subscribe<News>({ kind: "news" }, ({ title }) => title.length);
  news.on("payload", ({ page }) => page?.toFixed()).once("payload", (each: News) => each);
  // @ts-expect-error a payload of another type
  news.on("payload", (payload: number) => payload);
  // @ts-expect-error News has no such property
  news.on("payload", ({ text }) => text);
  // @ts-expect-error the subscription's payloads are of another type
  const other: Subscription<number> = client.getSubscription<News>({ kind: "news" });
  const inferred = client.subscribe({ kind: "news" }, (payload: News) => payload.title);
  for await (const { title } of inferred) return title;
  // @ts-expect-error no payload is a number
  for await (const payload of news) payload.toFixed();
  return other.state;
}

async function readConcretePatterns(): Promise<string> {
  const stocks = client.subscribe<News>({ kind: "stock", symbol: "*", "*": "*" }, ({ title }, { pattern }) => [title, pattern.symbol]);
  stocks.on("payload", (payload, message) => [payload.title, message.text.length, message.payload.title]);
  for await (const { payload, pattern, text } of stocks.messages()) return `${payload.title} ${pattern.symbol} ${text}`;
  // @ts-expect-error a message has no such property
  for await (const { title } of stocks.messages()) return title;
  return "";
}

async function resume(): Promise<string> {
  const chat = client.subscribe<News>({ kind: "chat" }, ({ title }) => title, { last: 20 });
  chat.on("recovered", () => {}).once(["subscribed", "unsubscribed"], () => {});
  client.subscribe<News>({ kind: "chat", room: 1 }, { since: chat.position }).on("payload", ({ title }, { position }) => `${position}${title}`);
  client.subscribe({ kind: "chat", room: 2 }, { offsets: true });
  // @ts-expect-error a number is no position
  client.subscribe({ kind: "chat", room: 3 }, { since: 17 });
  const { at, first, recovered, more, messages } = await new FullClient("/").history({ kind: "chat" }, { since: chat.position, limit: 10 });
  return `${at}${first.toFixed()}${recovered === true}${more}${messages.map(({ payload, text, pattern, position }) => [payload, text, pattern, position])}`;
}

async function byPath(): Promise<void> {
  // @ts-expect-error it is no any
  new ByPath("wss://example.org/ws").nothing();
  // @ts-expect-error it is no any
  new ByFolder("wss://example.org/ws").nothing();
  for await (const { title } of new ByPath("/ws").subscribe<News>({ kind: "news" })) title.trim();
}

async function publish(): Promise<number> {
  const { nodes } = await new APIClient("https://example.org/", { key: "k" }).publish({ kind: "news" }, [1]);
  return nodes;
}

async function publishMany(): Promise<string[]> {
  const api = new FullClient(new URL("https://example.org/"), { key: "k", timeout: 1000, backoffBase: 10, retryUnclear: true });
  const { at, duplicate } = await api.publish({ kind: "news" }, new RawJSON("[1]"), { key: "order-17" });
  const outcomes: PublishOutcome[] = await api.publishMany([{ pattern: { kind: "news" }, payload: 1, key: "k" }]);
  // @ts-expect-error a message needs a pattern
  await api.publishMany([{ payload: 1 }]);
  // @ts-expect-error the result has no such property
  outcomes[0].nothing;
  return [at ?? "", `${duplicate}`, ...outcomes.map((each) => (each.error ? each.error.code : each.nodes.toFixed()))];
}

const limited: RealizehitError = new RateLimited("slower", "rate-limited", 429, { retryAfter: 2 });
const text: string = channel({ kind: "news", n: 1n }, { wildcard: true }) + id({ kind: "news", n: 1n });
const errors: Error[] = [new RealizehitError("no", "forbidden", 403), new PatternError("no")];

// @ts-expect-error there is no such event
client.on("message", () => {});
// @ts-expect-error no such value in a pattern
client.subscribe({ kind: null });
// @ts-expect-error a subscription's payload event carries two values
subscription.on("payload", (one, two, three) => [one, two, three]);

export { byPath, errors, limited, publish, publishMany, read, readConcretePatterns, readNews, resume, text };
