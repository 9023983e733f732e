// Subscriptions with `*`: what the client sends, and the pattern that each message brings along.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { answerAll, connect, event, record, reply, scripted, serveEvents, until } from "./support.js";

const vectors = JSON.parse(readFileSync(new URL("../../../tests/vectors.json", import.meta.url), "utf8"));

/** Read so many messages. */
async function takeMessages(subscription, count) {
  const messages = [];
  for await (const message of subscription.messages()) if (messages.push(message) === count) break;
  return messages;
}

/** Subscribe a client to patterns, whose ids are `a`, `b` and so on; return what sends a payload to it. */
async function subscribed(t, transport, ...patterns) {
  let send;
  const server = await scripted(t, async (socket, next) => {
    for (const at of patterns.keys()) reply(socket, await next(), { ret: "abc"[at] });
    send = (label, text) => socket.send(`${label}?${text}`);
    await answerAll(socket, next);
  });
  if (transport === "sse") {
    serveEvents(server, (stream) => {
      stream.ids = patterns.map((_, at) => "abc"[at]);
      stream.open();
      send = (label, text) => stream.write(`id: ${label}\ndata: ${text}\n\n`);
    });
  }
  const client = connect(t, server.url, transport === "sse" ? { WebSocket: undefined } : {});
  const subscriptions = patterns.map((pattern) => client.subscribe(pattern));
  await Promise.all(subscriptions.map((each) => each.subscribe()));
  return { server, client, subscriptions, send: (label, text) => send(label, text) };
}

for (const transport of ["websocket", "sse"]) {
  test(`over ${transport} a message of a wildcard has its concrete pattern, any other message that of its subscription`, async (t) => {
    const exact = { kind: "stock", price: 3 };
    const { server, subscriptions, send } = await subscribed(t, transport, { kind: "stock", symbol: "*", "*": "*" }, exact);
    const sent = transport === "sse" ? server.streams[0].patterns : server.actions.map(({ pat }) => pat);
    assert.deepEqual(sent, [{ kind: "stock", symbol: "*", "*": "*" }, exact]);
    const calls = [];
    for (const each of subscriptions) each.on("payload", (payload, message) => calls.push([payload, message]));
    const reading = Promise.all(subscriptions.map((each) => takeMessages(each, 2)));
    send("a@c=kind:stock|symbol:ACME%20%C3%A9%7C%3A%3D", '{"n":1}');
    send("b", "2");
    send("a@c=kind:stock|%25:%40|symbol:X", '"a?b@c=d"');
    send("b", "3");
    const expected = [
      [
        { payload: { n: 1 }, text: '{"n":1}', pattern: { kind: "stock", symbol: "ACME é|:=" }, position: undefined },
        { payload: "a?b@c=d", text: '"a?b@c=d"', pattern: { kind: "stock", "%": "@", symbol: "X" }, position: undefined },
      ],
      [2, 3].map((payload) => ({ payload, text: `${payload}`, pattern: exact, position: undefined })),
    ];
    assert.deepEqual(await reading, expected);
    await until(() => calls.length === 4);
    assert.deepEqual(calls.map(([payload, message]) => [payload, message.payload]), [[{ n: 1 }, { n: 1 }], [2, 2], ["a?b@c=d", "a?b@c=d"], [3, 3]]);
    assert.deepEqual(calls.map(([, { pattern }]) => pattern), [0, 1].flatMap((at) => expected.map((messages) => messages[at].pattern)));
  });

  test(`over ${transport} unknown fields of a label are ignored, and a channel that cannot be decoded is an error`, async (t) => {
    const { client, subscriptions: [wild, exact], send } = await subscribed(t, transport, { kind: "*" }, { kind: "news" });
    const [messages, errors, own] = [[], record(wild, "error"), []];
    wild.on("payload", (_, message) => messages.push(message));
    exact.on("payload", (_, message) => own.push(message));
    for (const label of ["a@o=17&c=kind:x", "a@c=kind:x&o=17-18", "a@xc=kind:y&c=kind:x&cc=kind:z", "a@later&c=kind:x"]) send(label, "1");
    send("a@c=kind:%E9", "2");
    send("a@c=kind:%", "2");
    send("a@", "3");
    send("b@o=17", "4");
    send("c@c=kind:x", "5"); // of a subscription that it does not have
    send("b", "6");
    await until(() => own.length === 2);
    assert.deepEqual(messages.map(({ pattern }) => pattern), [...Array(4).fill({ kind: "x" }), { kind: "*" }]);
    assert.deepEqual(own.map(({ payload, pattern }) => [payload, pattern]), [[4, { kind: "news" }], [6, { kind: "news" }]]);
    assert.equal(errors.length, 2);
    for (const { message } of errors) assert.match(message, /cannot be parsed: URIError/);
    assert.deepEqual([client.connected, wild.state], [true, "subscribed"]);
  });

  test(`over ${transport} the patterns of the shared vectors are decoded`, async (t) => {
    const { subscriptions: [wild], send } = await subscribed(t, transport, { "*": "*" });
    const patterns = [];
    wild.on("payload", (_, { pattern }) => patterns.push(pattern));
    const publications = vectors.wildcards.flatMap((row) => row.publications).concat(vectors.valid.filter(({ channel }) => channel));
    for (const { channel } of publications) send(`a@c=${channel}`, "1");
    await until(() => patterns.length === publications.length);
    assert.ok(publications.length > 50);
    const { channel } = await import("realizehit/pattern");
    patterns.forEach((pattern, at) => {
      assert.equal(channel(pattern), publications[at].channel);
      assert.ok(Object.values(pattern).every((value) => typeof value === "string"));
    });
  });
}

test("a key of a concrete pattern may be __proto__", async (t) => {
  const { subscriptions: [wild], send } = await subscribed(t, "websocket", { "*": "*" });
  const reading = takeMessages(wild, 1);
  send("a@c=__proto__:x|constructor:y", "1");
  const [{ pattern }] = await reading;
  assert.deepEqual(Object.entries(pattern), [["__proto__", "x"], ["constructor", "y"]]);
});

for (const code of ["too-many-shapes", "wildcard-unsupported"]) {
  test(`${code} ends the subscription, and no other one`, async (t) => {
    const server = await scripted(t, async (socket, next) => {
      reply(socket, await next(), { err: "no", code });
      await answerAll(socket, next);
    });
    const client = connect(t, server.url);
    const wild = client.subscribe({ kind: "*" });
    const other = client.subscribe({ kind: "news" });
    assert.equal((await event(wild, "error")).code, code);
    await other.subscribe();
    assert.deepEqual([wild.state, client.subscriptions, server.actions.length], ["unsubscribed", [other], 2]);
  });
}

test("messages are collected from the call of messages() on", async (t) => {
  const { subscriptions: [wild], send } = await subscribed(t, "websocket", { kind: "*" });
  const messages = wild.messages();
  for (const kind of ["x", "y"]) send(`a@c=kind:${kind}`, "1");
  await until(() => wild.payloads === 2);
  assert.deepEqual((await messages.next()).value.pattern, { kind: "x" });
  assert.deepEqual((await messages.next()).value.pattern, { kind: "y" });
  await messages.return();
});

test("a loop over messages ends with the subscription, and a slow one loses the oldest", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "a" });
    await next();
    for (let n = 0; n < 6; n++) socket.send(`a@c=kind:${n}?${n}`);
    await answerAll(socket, next);
  });
  const client = connect(t, server.url, { maxsize: 2 });
  const wild = client.subscribe({ kind: "*" });
  await wild.subscribe();
  const messages = wild.messages();
  const first = messages.next();
  client.subscribe({ kind: "other" });
  assert.deepEqual((await first).value, { payload: 0, text: "0", pattern: { kind: "0" }, position: undefined });
  await until(() => wild.dropped === 6 - 1 - 2);
  assert.deepEqual((await messages.next()).value.pattern, { kind: "4" });
  await wild.unsubscribe();
  assert.deepEqual(await messages.next(), { value: undefined, done: true });
});
