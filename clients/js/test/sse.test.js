// Where WebSockets do not get through: events over HTTP, from a scripted server that keeps to the documented contract.
import assert from "node:assert/strict";
import { test } from "node:test";

import { answerAll, connect, event, record, scripted, serveEvents, take, until } from "./support.js";

const problem = (response, status, body) =>
  response.writeHead(status, { "Content-Type": "application/problem+json" }).end(JSON.stringify(body));

test("it falls back when WebSockets failed twice, and everything arrives in order", async (t) => {
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

test("however the bytes are cut", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  const payloads = record(subscription, "payload");
  await subscription.subscribe();
  const bytes = Buffer.from('id: a\ndata: ["é€😀",\ndata: 2]\n\n:\nevent: unknown\ndata: 3\n\nid: a\r\ndata:4\r\n\r\nretry: 1\n\nid: a\ndata: 5\n\n');
  for (const byte of bytes) {
    server.streams[0].write(Uint8Array.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => payloads.length === 3 || client.errors.length > 2);
  assert.deepEqual(payloads, [["é€😀", 2], 4, 5]);
});

test("what is subscribed to later is asked for on a new stream, and the others are told of the gap", async (t) => {
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

test("patterns that are refused, some or all", async (t) => {
  const server = await scripted(t, answerAll);
  const collision = { code: "id-collision", detail: "two patterns with one id" };
  serveEvents(server, (stream, count) => {
    if (count === 1) stream.open([null, collision, { code: "unavailable", detail: "no broker" }]);
    else if (stream.ids.includes("bad")) problem(stream.response, 400, { code: "bad-pattern", detail: "the value is empty" });
    else stream.open();
  });
  const client = connect(t, server.url);
  const [a, b, c] = ["a", "b", "c"].map((kind) => client.subscribe({ kind }));
  const [told] = await Promise.all([event(b, "error"), c.subscribe(), a.subscribe()]);
  assert.deepEqual([told.code, told.message, b.state], ["id-collision", "two patterns with one id", "unsubscribed"]);
  assert.deepEqual(server.streams[1].ids, ["a", "c"]); // what was refused for now was asked for again
  client.close();

  const other = connect(t, server.url);
  const bad = other.subscribe({ kind: "bad" });
  assert.equal((await event(bad, "error")).code, "bad-pattern");
  assert.ok(other.errors.every(({ status }) => status !== 400)); // told where it belongs
  await other.subscribe({ kind: "good" }).subscribe();
});

test("it tries a WebSocket first at every reconnect", async (t) => {
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

test("it goes back to a WebSocket after some time", async (t) => {
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

test("the delay of a drain is obeyed", async (t) => {
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

test("401 and 403 end the client; anything else is tried again", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server, ({ response }, count) => {
    if (count === 1) response.writeHead(200, { "Content-Type": "text/html" }).end("<p>a portal");
    else if (count === 2) problem(response, 503, { code: "unavailable", detail: "draining" });
    else problem(response, 403, { code: "forbidden", detail: "not you" });
  });
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  await assert.rejects(subscription.subscribe(), { code: "forbidden", status: 403, message: "not you" });
  assert.deepEqual(client.errors.map(({ status }) => status).filter(Boolean).filter((status) => status < 1000), [200, 503, 403]);
  assert.throws(() => client.subscribe({ kind: "b" }), { code: "forbidden" });
});

test("a stream that went silent is given up", async (t) => {
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

test("where there is no WebSocket at all, events are used at once", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined, sse: new URL("/sse", server.url).href.replace("ws:", "http:") });
  await client.subscribe({ kind: "a" }).subscribe();
  assert.deepEqual([client.transport, client.errors, server.refused], ["sse", [], 0]);
});

test("a client with nothing to ask for waits, and subscribes at once when there is something", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { backoffBase: 1, backoffCap: 1 });
  await until(() => server.refused >= 4);
  assert.equal(server.streams.length, 0);
  await client.subscribe({ kind: "a" }).subscribe();
  assert.equal(client.transport, "sse");
});

test("a client that is closed in the turn in which it is asked for more stays closed", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" });
  await subscription.subscribe();
  const more = client.subscribe({ kind: "b" });
  client.close();
  await until(() => server.streams[0].closed);
  const refused = server.refused;
  await new Promise((resolve) => setTimeout(resolve, 150)); // time enough to come back, were it to
  assert.deepEqual([server.streams.length, server.refused, more.state], [1, refused, "unsubscribed"]);
});

test("with sse: false there are only WebSockets", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { sse: false });
  const subscription = client.subscribe({ kind: "a" });
  await until(() => server.refused >= 4);
  server.refuse = false;
  await subscription.subscribe();
  assert.equal(server.streams.length, 0);
});

test("events besides payloads: a gap, and the end of a subscription", async (t) => {
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
