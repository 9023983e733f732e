// The delays before reconnecting. Timers of the client fire at once, so that no test waits.
import assert from "node:assert/strict";
import { test } from "node:test";

import { WSClient } from "realizehit";

import { until } from "./support.js";

const MOST = 300_000; // ms that a server may keep a client away

/** Let the client's timers fire at once; return the delays that they had. */
function wind(t) {
  const delays = [];
  const { setTimeout } = globalThis;
  t.mock.method(globalThis, "setTimeout", (call, delay = 0, ...rest) => {
    if (new Error().stack.includes("#connectLater")) delays.push(delay);
    else if (delay > 5) return setTimeout(call, delay, ...rest); // what watches over a link
    return setTimeout(call, 0, ...rest);
  });
  t.mock.method(Math, "random", () => 1);
  return delays;
}

/** A WebSocket that opens and closes with what the test says, and then never opens. */
function closing(...reasons) {
  return class {
    constructor() {
      setImmediate(() => {
        if (!reasons.length) return;
        this.onopen();
        this.onmessage({ data: "[]" });
        this.onclose({ code: 4001, reason: reasons.shift() });
      });
    }
    send() {}
    close() {}
  };
}

/** A fetch that returns the test's responses, and then none. */
const answering = (...answers) => async (_url, { signal }) => {
  if (answers.length) return answers.shift()();
  return new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
};

const events = (text) => () => new Response(text, { headers: { "Content-Type": "text/event-stream" } });
const unavailable = (after) => () =>
  new Response('{"code":"unavailable","detail":"away"}', { status: 503, headers: after === undefined ? {} : { "Retry-After": after } });

/** Run a client until it has reconnected so many times; return the delays. */
async function delaysOf(t, count, options) {
  const delays = wind(t);
  const client = new WSClient("ws://127.0.0.1:1/ws", { backoffBase: 100, backoffCap: 1500, ...options });
  client.on("error", () => {});
  client.subscribe({ kind: "news" }).on("error", () => {});
  await until(() => delays.length >= count);
  client.close();
  t.mock.restoreAll();
  return delays.slice(0, count);
}

for (const [reason, delay] of [
  ["delay=0", 0],
  ["delay=1234", 1234],
  ["delay=300000", MOST],
  ["delay=300001", MOST],
  ["delay=999999999", MOST],
  ["delay=1e9", 100],
  ["delay=-1", 100],
  ["delay=99999999999999999999", 100],
  ["", 100],
]) {
  test(`a WebSocket that closes with 4001 ${reason}`, async (t) => {
    assert.deepEqual(await delaysOf(t, 1, { WebSocket: closing(reason), sse: false }), [delay]);
  });
}

for (const [text, delay] of [
  ["retry: 50\n\n", 50],
  ["retry: 0\n\n", 0],
  ["retry: 86400000\n\n", MOST],
  ["retry: 99999999999999999999999\n\n", MOST],
  [`retry: ${"9".repeat(400)}\n\n`, MOST],
  ["retry: 1e3\n\n", 100],
  ['event: drain\ndata: {"delay":1e300}\n\n', MOST],
  ['event: drain\ndata: {"delay":70}\n\n', 70],
  ['event: drain\ndata: {"delay":-70}\n\n', 100],
  ['event: drain\ndata: {"delay":null}\n\n', 100],
  ['event: drain\ndata: {"delay":"soon"}\n\n', 100],
  ['event: drain\ndata: {}\n\n', 100],
  ["event: drain\ndata: [\n\n", 100],
]) {
  test(`a stream that ends after ${JSON.stringify(text.slice(0, 60))}`, async (t) => {
    assert.deepEqual(await delaysOf(t, 1, { WebSocket: undefined, fetch: answering(events(text)) }), [delay]);
  });
}

for (const [after, delay] of [
  ["7", 7000],
  ["0", 0],
  ["301", MOST],
  ["9".repeat(400), MOST],
  ["-7", 100],
  ["7.5", 7500],
  ["Wed, 21 Oct 2065 07:28:00 GMT", 100],
  ["", 100],
  [undefined, 100],
]) {
  test(`an answer 503 with Retry-After ${after?.slice(0, 40)}`, async (t) => {
    assert.deepEqual(await delaysOf(t, 1, { WebSocket: undefined, fetch: answering(unavailable(after)) }), [delay]);
  });
}

test("if servers ask for no delay one after the other, the client pauses nevertheless", async (t) => {
  const expected = [0, 200, 400, 800, 1500, 1500];
  const reasons = expected.map(() => "delay=0");
  assert.deepEqual(await delaysOf(t, 6, { WebSocket: closing(...reasons), sse: false }), expected);
  const answers = expected.map(() => events("retry: 0\n\n"));
  assert.deepEqual(await delaysOf(t, 6, { WebSocket: undefined, fetch: answering(...answers) }), expected);
  const refusals = expected.map(() => unavailable("0"));
  assert.deepEqual(await delaysOf(t, 6, { WebSocket: undefined, fetch: answering(...refusals) }), expected);
  const longer = expected.map(() => "delay=60000");
  assert.deepEqual(await delaysOf(t, 3, { WebSocket: closing(...longer), sse: false }), [60_000, 60_000, 60_000]);
});
