// If WebSockets do not get through: Server-Sent Events of a scripted server that follows the documented protocol.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { answerAll, connect, event, record, scripted, serveEvents, setForward, take, until } from "./support.js";

const problem = (response, status, body) =>
  response.writeHead(status, { "Content-Type": "application/problem+json" }).end(JSON.stringify(body));

test("it falls back after two failed WebSockets, and everything arrives in order", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const [a, b] = [client.subscribe({ kind: "a" }), client.subscribe({ kind: "b", "x&y": "ä?" })];
  const others = record(b, "payload");
  assert.equal(await event(client, "connected"), "sse");
  assert.equal(server.refused, 2);
  assert.deepEqual(server.streams[0].patterns, [{ kind: "a" }, { kind: "b", "x&y": "ä?" }]);
  await Promise.all([a.subscribe(), b.subscribe()]);
  assert.deepEqual([a.id, b.id, client.transport, a.gaps], ["a", "b", "sse", 0]);
  const stream = server.streams[0];
  const values = [{ title: "é?\u2028" }, null, 0, "x".repeat(200_000), [1]];
  for (const value of values) {
    stream.write(": \n\n");
    stream.payload("a", value);
    stream.payload("b", [value]);
    stream.payload("stranger", 1);
  }
  assert.deepEqual(await take(a, values.length), values);
  await until(() => others.length === values.length);
  assert.deepEqual(others, values.map((value) => [value]));
});

/** Return the texts that a client delivers to subscription "a" from a stream whose bytes come in these pieces. */
async function payloadsOf(t, pieces) {
  const fetch = async () => new Response(new ReadableStream({
    start(controller) {
      for (const piece of pieces) if (piece.length) controller.enqueue(piece);
      controller.close();
    },
  }));
  const options = { WebSocket: undefined, fetch, parse: (text) => text, backoffBase: 60_000, backoffCap: 60_000 };
  const client = connect(t, "ws://127.0.0.1:1/ws", options);
  const payloads = record(client.subscribe({ kind: "a" }), "payload");
  await event(client, "disconnect");
  client.close();
  assert.deepEqual(client.errors, []);
  return payloads;
}

const corpus = JSON.parse(readFileSync(new URL("../../../tests/event_streams.json", import.meta.url), "utf8"));

for (const { name, text, events } of corpus.streams) {
  test(`${name}, however the bytes are cut`, async (t) => {
    const expected = events.filter(([name, id]) => name === "message" && id === "a").map((event) => event[2]);
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual(await payloadsOf(t, [bytes]), expected);
    assert.deepEqual(await payloadsOf(t, Array.from(bytes, (byte) => Uint8Array.of(byte))), expected);
    for (let at = 1; at < bytes.length; at++) {
      assert.deepEqual(await payloadsOf(t, [bytes.subarray(0, at), bytes.subarray(at)]), expected, `cut at ${at}`);
    }
  });
}

test("an event is delivered as soon as its end has come, also if that is a CR", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined });
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  server.streams[0].write("id: a\rdata: 1\r\r");
  assert.deepEqual(await take(subscription, 1), [1]);
});

test("later subscriptions open a new stream, and the others get a gap", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const connected = record(client, "connected");
  const a = client.subscribe({ kind: "a" });
  await a.subscribe();
  const [b, c] = [client.subscribe({ kind: "b" }), client.subscribe({ kind: "c" })];
  await Promise.all([b.subscribe(), c.subscribe(), event(a, "gap")]);
  assert.deepEqual(server.streams.map(({ ids }) => ids), [["a"], ["a", "b", "c"]]);
  await until(() => server.streams[0].closed);
  await b.unsubscribe();
  const seen = record(b, "payload");
  server.streams[1].payload("b", 1);
  server.streams[1].payload("c", 2);
  assert.deepEqual(await take(c, 1), [2]);
  assert.deepEqual([seen, b.state, server.streams.length, connected], [[], "unsubscribed", 2, ["sse"]]);
});

test("some or all patterns are refused", async (t) => {
  const server = await scripted(t, answerAll);
  const collision = { code: "id-collision", detail: "two patterns with one id" };
  serveEvents(server, (stream, count) => {
    if (count === 1) stream.open([null, collision, { code: "unavailable", detail: "no broker" }]);
    else if (stream.ids.includes("bad")) problem(stream.response, 400, { code: "bad-pattern", detail: "the value is empty" });
    else stream.open();
  });
  const client = connect(t, server.url);
  const [a, b, c] = ["a", "b", "c"].map((kind) => client.subscribe({ kind }));
  const [told] = await Promise.all([event(b, "error"), event(c, "subscribed"), a.subscribe()]);
  assert.deepEqual([told.code, told.message, b.state], ["id-collision", "two patterns with one id", "unsubscribed"]);
  assert.deepEqual(server.streams[1].ids, ["a", "c"]); // after a temporary refusal it asked again
  client.close();

  const other = connect(t, server.url);
  const bad = other.subscribe({ kind: "bad" });
  assert.equal((await event(bad, "error")).code, "bad-pattern");
  assert.ok(other.errors.every(({ status }) => status !== 400)); // the subscription reports it
  await other.subscribe({ kind: "good" }).subscribe();
});

test("if all patterns are refused, each gets its own reason", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server, (stream) => {
    const errors = [{ code: "bad-pattern", detail: "the value is empty" }, { code: "forbidden", detail: "not you" }];
    problem(stream.response, 400, { ...errors[0], errors });
  });
  const client = connect(t, server.url, { WebSocket: undefined });
  const told = await Promise.all(["a", "b"].map((kind) => event(client.subscribe({ kind }), "error")));
  assert.deepEqual(told.map(({ code, message }) => [code, message]), [
    ["bad-pattern", "the value is empty"],
    ["forbidden", "not you"],
  ]);
});

test("a stream continues until the next one is open, and one without a new subscription causes no gap", async (t) => {
  const server = await scripted(t, answerAll);
  const away = { code: "unavailable", detail: "no broker" };
  serveEvents(server, (stream, count) => {
    if (count < 3) stream.open([null, away]);
    else if (count > 3) stream.open(); // the third one waits
  });
  const client = connect(t, server.url, { WebSocket: undefined, backoffBase: 1, backoffCap: 1 });
  const [a, b] = ["a", "b"].map((kind) => client.subscribe({ kind }));
  await until(() => server.streams.length === 3);
  const [first, second, third] = server.streams;
  await until(() => second.closed);
  first.payload("a", 1);
  assert.deepEqual(await take(a, 1), [1]);
  assert.deepEqual([a.gaps, a.state, b.state, first.closed], [0, "subscribed", "subscribing", false]);
  third.open();
  await b.subscribe();
  third.payload("a", 2);
  assert.deepEqual(await take(a, 1), [2]);
  await until(() => first.closed);
  assert.deepEqual([a.gaps, b.gaps, client.transport], [1, 0, "sse"]);
});

test("if a second stream is refused, the first one ends", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server, (stream, count) => {
    if (count === 2) problem(stream.response, 503, { code: "too-many-connections", detail: "one is enough" });
    else stream.open();
  });
  const client = connect(t, server.url, { WebSocket: undefined });
  const a = client.subscribe({ kind: "a" });
  await a.subscribe();
  const lost = event(client, "disconnect");
  const b = client.subscribe({ kind: "b" });
  assert.equal((await lost).code, "too-many-connections");
  await Promise.all([event(a, "gap"), b.subscribe()]);
  assert.deepEqual(server.streams.map(({ ids }) => ids), [["a"], ["a", "b"], ["a", "b"]]);
});

test("a pattern without room in the address gets an error, and the others are not affected", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined });
  const first = Array.from({ length: 100 }, (_, n) => client.subscribe({ kind: `first ${n}` }));
  await Promise.all(first.map((each) => each.subscribe()));
  const more = Array.from({ length: 300 }, (_, n) => client.subscribe({ kind: `more ${n}` }));
  const errors = more.map((each) => record(each, "error"));
  await event(more.at(-1), "error");
  const [, { patterns, response }] = server.streams;
  assert.ok(response.req.url.length < 8000, `${response.req.url.length}`);
  const room = patterns.length - first.length;
  assert.ok(room > 10, `${room}`);
  assert.deepEqual(
    errors.map((told, at) => [more[at].state, ...told.map(({ code }) => code)]),
    more.map((_, at) => (at < room ? ["subscribed"] : ["subscribing", "too-many-subscriptions"])),
  );
  assert.ok(first.every((each) => each.subscribed() && each.gaps === 1));
  const last = client.subscribe({ kind: "one more" });
  assert.equal((await event(last, "error")).code, "too-many-subscriptions");
  await until(() => server.streams[2].closed);
  assert.ok(first.every((each) => each.subscribed() && each.gaps === 1));
  assert.ok(errors.every((told) => told.length < 2));
  client.unsubscribe({ kind: "first 0" });
  server.refuse = false;
  await new Promise((resolve) => setImmediate(resolve));
  server.streams[1].response.end(); // at the next stream there is room for one more
  await event(more[room], "subscribed");
});

test("a stream without subscriptions is closed", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { backoffBase: 60_000, backoffCap: 60_000, WebSocket: undefined });
  const [a, b] = ["a", "b"].map((kind) => client.subscribe({ kind }));
  await Promise.all([a.subscribe(), b.subscribe()]);
  await a.unsubscribe();
  const lost = event(client, "disconnect");
  await b.unsubscribe();
  assert.match((await lost).message, /nothing is subscribed/);
  await until(() => server.streams[0].closed);
  await client.subscribe({ kind: "c" }).subscribe();
  assert.deepEqual(server.streams.map(({ ids }) => ids), [["a", "b"], ["c"]]);
  client.unsubscribe({ kind: "c" });
  await client.subscribe({ kind: "d" }).subscribe(); // in the same turn: the stream is replaced
  assert.deepEqual([server.streams[2].ids, client.errors], [["d"], []]);
});

test("a gap counts from the last sign of life if the stream ends", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined });
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  setForward(t, 5000);
  server.streams[0].response.end();
  assert.ok((await event(subscription, "gap")) >= 5);
});

test("it tries a WebSocket first at every reconnection", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  server.streams[0].response.destroy();
  await event(subscription, "gap"); // over events once more: one failure is enough now
  assert.deepEqual([client.transport, server.refused, server.streams.length], ["sse", 3, 2]);
  server.refuse = false;
  server.streams[1].response.end();
  await event(subscription, "gap");
  assert.equal(client.transport, "websocket");
});

test("it changes back to a WebSocket after some time", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { webSocketRetry: 50 });
  const connected = record(client, "connected");
  const lost = record(client, "disconnect");
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  await until(() => server.refused >= 5); // the events stay meanwhile
  assert.deepEqual([subscription.gaps, server.streams.length], [0, 1]);
  server.refuse = false;
  await event(subscription, "gap");
  await until(() => server.streams[0].closed);
  assert.deepEqual([connected, lost, client.transport], [["sse", "websocket"], [], "websocket"]);
  assert.equal(server.arrivals.length, 1);
});

test("it waits for the delay of a drain", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { backoffBase: 1 });
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  server.refuse = false;
  server.streams[0].write('event: drain\ndata: {"delay": 400}\n\n');
  server.streams[0].response.end();
  await event(client, "disconnect");
  const lost = Date.now();
  await event(subscription, "gap");
  assert.ok(server.arrivals[0] - lost >= 380, `${server.arrivals[0] - lost}`);
});

test("a stream that only names a delay is a temporary refusal", async (t) => {
  const server = await scripted(t, answerAll);
  const away = { status: 503, code: "unavailable", detail: "draining" };
  serveEvents(server, (stream, count) => {
    if (count > 1) return stream.open();
    stream.response.writeHead(200, { "Content-Type": "text/event-stream" });
    stream.response.end(`retry: 300\nevent: unavailable\ndata: ${JSON.stringify(away)}\n\n`);
  });
  const client = connect(t, server.url, { WebSocket: undefined, backoffBase: 60_000, backoffCap: 60_000 });
  const subscription = client.subscribe({ kind: "a" });
  const told = await event(client, "error");
  assert.deepEqual([told.status, told.code, told.message], [503, "unavailable", "draining"]);
  const lost = performance.now();
  await subscription.subscribe();
  assert.ok(performance.now() - lost >= 290);
  assert.deepEqual([subscription.gaps, client.errors.length], [0, 1]);
});

test("it waits for the delay that a stream names, except the one at its beginning", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined, backoffBase: 1, backoffCap: 1 });
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  const away = [];
  for (const last of ["", "retry: 300\n\n", "retry: 60000\nretry: -1\nretry: 1e3\nevent: drain\ndata: {\"delay\": 300}\n\n"]) {
    server.streams.at(-1).write(last);
    server.streams.at(-1).response.end();
    await event(client, "disconnect");
    const lost = performance.now();
    await event(subscription, "gap");
    away.push(performance.now() - lost);
  }
  assert.ok(away[0] < 2000 && away[1] >= 290 && away[2] >= 290 && away[2] < 20_000, `${away}`);
});

test("401 and 403 end the client; after anything else it tries again", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server, ({ response }, count) => {
    if (count === 1) response.writeHead(200, { "Content-Type": "text/html" }).end("<p>a portal");
    else if (count === 2) problem(response, 503, { code: "unavailable", detail: "draining" });
    else problem(response, 403, { code: "forbidden", detail: "not you" });
  });
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  await assert.rejects(subscription.subscribe(), { code: "forbidden", status: 403, message: "not you" });
  const told = client.errors.filter(({ message }) => !/websocket|\/ws/.test(message));
  assert.deepEqual(told.map(({ status, message }) => [status, message.replace(/ to .*\?\S*/, "")]), [
    [0, "the connection ended"],
    [503, "draining"],
    [403, "not you"],
  ]);
  assert.throws(() => client.subscribe({ kind: "b" }), { code: "forbidden" });
});

test("a silent stream is given up", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { heartbeat: 200 });
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  const beats = setInterval(() => server.streams[0].write(": \n\n"), 20);
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(server.streams.length, 1); // comments are signs of life
  clearInterval(beats);
  assert.ok((await event(subscription, "gap")) >= 0.15);
  await until(() => server.streams[0].closed);
});

test("cookies are sent, and if the page cannot read the response, the client asks without them", async (t) => {
  for (const [status, expected] of [[403, { status: 403, code: "forbidden" }], [200, { message: /closed to this page/ }]]) {
    const asked = [];
    const fetch = async (_url, { credentials }) => {
      asked.push(credentials);
      if (credentials === "include") throw new TypeError("closed to this page");
      return new Response(JSON.stringify({ code: "forbidden", detail: "not your page" }), { status });
    };
    const client = connect(t, "ws://127.0.0.1:1/ws", { WebSocket: undefined, fetch, backoffBase: 60_000, backoffCap: 60_000 });
    client.subscribe({ kind: "a" });
    const error = await event(client, "error");
    assert.throws(() => { throw error; }, expected);
    assert.deepEqual(asked, ["include", "omit"]);
    client.close();
  }
});

test("without a WebSocket class it uses an event stream at once", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined, sse: new URL("/sse", server.url).href.replace("ws:", "http:") });
  await client.subscribe({ kind: "a" }).subscribe();
  assert.deepEqual([client.transport, client.errors, server.refused], ["sse", [], 0]);
});

test("a client without subscriptions waits, and subscribes at once when there is one", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { backoffBase: 1, backoffCap: 1 });
  await until(() => server.refused >= 4);
  assert.equal(server.streams.length, 0);
  await client.subscribe({ kind: "a" }).subscribe();
  assert.equal(client.transport, "sse");
});

test("a client that is closed in the turn of a subscription stays closed", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  const more = client.subscribe({ kind: "b" });
  client.close();
  await until(() => server.streams[0].closed);
  const refused = server.refused;
  await new Promise((resolve) => setTimeout(resolve, 150)); // enough time to reconnect, if it did so
  assert.deepEqual([server.streams.length, server.refused, more.state], [1, refused, "unsubscribed"]);
});

test("with sse: false it uses only WebSockets", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { sse: false });
  const subscription = client.subscribe({ kind: "a" });
  await until(() => server.refused >= 4);
  server.refuse = false;
  await subscription.subscribe();
  assert.equal(server.streams.length, 0);
});

test("other events: a gap, and the end of a subscription", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const [one, other] = ["a", "b"].map((kind) => client.subscribe({ kind }));
  await Promise.all([one.subscribe(), other.subscribe()]);
  const [told, ended] = [record(one, "gap"), record(other, "error")];
  const { response } = server.streams[0];
  response.write('event: gap\ndata: {"ids":["a"],"seconds":2.5}\n\n');
  response.write('event: unsubscribed\ndata: {"ids":["b"],"code":"forbidden","reason":"no more of this"}\n\n');
  server.streams[0].payload("a", 1);
  assert.deepEqual(await take(one, 1), [1]);
  assert.deepEqual([told, one.gaps, ended[0].message, other.state], [[2.5], 1, "no more of this", "unsubscribed"]);
});
