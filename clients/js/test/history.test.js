// History: a subscription with positions begins in the past, and resumes after a lost connection. Scripted servers.
import assert from "node:assert/strict";
import { test } from "node:test";

import { WebSocket } from "ws";

import { answerAll, connect, event, record, reply, scripted, serveEvents, until } from "./support.js";

/** Collect `[payload, position]` of each message. */
function recordMessages(subscription) {
  const messages = [];
  subscription.on("payload", (payload, { position }) => messages.push([payload, position]));
  return messages;
}

/**
 * Run a server whose n-th connection answers each `sub` with the n-th replies, and then sends the texts of the n-th list; it
 * closes every connection but the last one. It collects the `sub` actions without their ids.
 */
async function answering(t, ...connections) {
  const subs = [];
  const server = await scripted(t, ...connections.map(([answers, texts], at) => async (socket, next) => {
    for (const answer of answers) {
      const { id, ...action } = await next();
      subs.push(action);
      reply(socket, { id }, answer);
    }
    for (const text of texts) socket.send(text);
    if (at < connections.length - 1) socket.close(1012);
    else await answerAll(socket, next);
  }));
  return Object.assign(server, { subs });
}

for (const [options, expected] of [
  [{ since: "k3f09a2c.17" }, { since: "k3f09a2c.17" }],
  [{ last: 3 }, { last: 3, offsets: true }],
  [{ offsets: true }, { offsets: true }],
  [{ since: "k3f09a2c.17", last: 3 }, { since: "k3f09a2c.17" }],
  [{ since: undefined, last: 0, offsets: false }, {}],
  [undefined, {}],
]) {
  test(`the options ${JSON.stringify(options)} ask for ${JSON.stringify(expected)}`, async (t) => {
    const server = await answering(t, [[{ ret: "a" }], []]);
    await connect(t, server.url).subscribe({ kind: "a" }, options).subscribe();
    assert.deepEqual(server.subs, [{ act: "sub", pat: { kind: "a" }, ...expected }]);
  });
}

test("it resumes after its last message, and tells that nothing was missed", async (t) => {
  const server = await answering(
    t,
    [[{ ret: "a", at: "k.16" }], ["a@o=17?1", "a@o=18?2"]],
    [[{ ret: "a", at: "k.18", recovered: true }], ["a@o=19?3", "a@x=1&o=20?4"]],
    [[{ ret: "a", at: "k.20", recovered: true }], []],
  );
  const subscription = connect(t, server.url).subscribe({ kind: "a" }, () => {}, { last: 1 });
  const messages = recordMessages(subscription);
  const [gaps, recovered] = [record(subscription, "gap"), record(subscription, "recovered")];
  await until(() => recovered.length === 2);
  assert.deepEqual(messages, [[1, "k.17"], [2, "k.18"], [3, "k.19"], [4, "k.20"]]);
  const pat = { kind: "a" };
  assert.deepEqual(server.subs, [
    { act: "sub", pat, last: 1, offsets: true }, { act: "sub", pat, since: "k.18" }, { act: "sub", pat, since: "k.20" },
  ]);
  assert.deepEqual([gaps, subscription.gaps, subscription.position], [[], 0, "k.20"]);
});

test("what cannot be recovered is a gap, and the subscription goes on where the server says", async (t) => {
  const server = await answering(
    t,
    [[{ ret: "a", at: "k.16" }], ["a@o=17?1"]],
    [[{ ret: "a", at: "m.4", recovered: false }], ["a@o=5?2"]],
    [[{ ret: "a", at: "m.5", recovered: true }], []],
  );
  const subscription = connect(t, server.url).subscribe({ kind: "a" }, { offsets: true });
  const messages = recordMessages(subscription);
  const gaps = record(subscription, "gap");
  await event(subscription, "recovered");
  assert.deepEqual(messages, [[1, "k.17"], [2, "m.5"]]);
  assert.deepEqual(server.subs.map(({ since }) => since), [undefined, "k.17", "m.5"]);
  assert.equal(gaps.length, 1);
  assert.ok(gaps[0] >= 0 && gaps[0] < 20);
});

test("a program's own position that cannot be recovered is a gap of 0 seconds", async (t) => {
  const server = await answering(t, [[{ ret: "a", at: "m.4", recovered: false }], []]);
  const subscription = connect(t, server.url).subscribe({ kind: "a" }, { since: "k.17" });
  assert.equal(await event(subscription, "gap"), 0);
  assert.deepEqual([subscription.position, subscription.gaps], ["m.4", 1]);
});

test("a pattern without a history has no position, and a lost connection is a gap", async (t) => {
  const server = await answering(
    t,
    [[{ ret: "a", recovered: false }], ["a?1"]],
    [[{ ret: "a" }], []],
  );
  const subscription = connect(t, server.url).subscribe({ kind: "a" }, { since: "k.17" });
  const messages = recordMessages(subscription);
  const gaps = record(subscription, "gap");
  await until(() => gaps.length === 2);
  assert.deepEqual(messages, [[1, undefined]]);
  assert.deepEqual([subscription.position, server.subs[1].since, server.subs[1].offsets], [undefined, undefined, true]);
});

test("the epoch may change, by a label or by a gap", async (t) => {
  const gap = JSON.stringify({ evt: "gap", ids: ["a", "b"], seconds: 1.5, at: { a: "n.7" } });
  const server = await answering(t, [
    [{ ret: "a", at: "k.16" }, { ret: "b" }],
    ["a@o=17?1", "a@o=m.1?2", "a@o=2?3", gap, "a@o=8?4", "b?5", "a@c=kind:a&o=n.9&z=1?6"],
  ]);
  const client = connect(t, server.url);
  const [a, b] = [client.subscribe({ kind: "a" }, { offsets: true }), client.subscribe({ kind: "b" })];
  const [messages, others] = [recordMessages(a), recordMessages(b)];
  const gaps = [record(a, "gap"), record(b, "gap")];
  await until(() => messages.length === 5);
  assert.deepEqual(messages, [[1, "k.17"], [2, "m.1"], [3, "m.2"], [4, "n.8"], [6, "n.9"]]);
  assert.deepEqual([gaps, others, b.position], [[[1.5], [1.5]], [[5, undefined]], undefined]);
});

test("an offset whose epoch was never told gives no position", async (t) => {
  const server = await answering(t, [[{ ret: "a" }], ["a@o=6?1", "a@o=k.7?2", "a@o=8?3"]]);
  const subscription = connect(t, server.url).subscribe({ kind: "a" }, { offsets: true });
  const messages = recordMessages(subscription);
  await until(() => messages.length === 3);
  assert.deepEqual(messages, [[1, undefined], [2, "k.7"], [3, "k.8"]]);
});

test("labels that are no position are ignored, and a subscription without positions ignores all", async (t) => {
  const server = await answering(
    t,
    [[{ ret: "a", at: "k.16" }, { ret: "b", at: "k.1" }], ["a@o=?1", "a@o=x?2", "a@o=12x?3", "a@po=99?4", "a@o=k.1.7?5", "b@o=2?6", "a@o=17?7"]],
    [[{ ret: "a", at: "k.17", recovered: true }, { ret: "b" }], []],
  );
  const client = connect(t, server.url);
  const [a, b] = [client.subscribe({ kind: "a" }, { offsets: true }), client.subscribe({ kind: "b" })];
  const [messages, others] = [recordMessages(a), recordMessages(b)];
  await Promise.all([event(a, "recovered"), event(b, "gap")]);
  assert.deepEqual(messages, [...[1, 2, 3, 4, 5].map((n) => [n, undefined]), [7, "k.17"]]);
  assert.deepEqual(others, [[6, undefined]]);
  assert.deepEqual(server.subs.map(({ since }) => since), [undefined, undefined, "k.17", undefined]);
});

test("another beginning of a pattern that is subscribed is refused, and an ended subscription goes on after its last message", async (t) => {
  const server = await answering(t, [[{ ret: "a", at: "k.16" }], ["a@o=17?1"]]);
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "a" }, { offsets: true });
  await event(subscription, "payload");
  assert.throws(() => client.subscribe({ kind: "a" }, { last: 1 }), /is still subscribed/);
  assert.throws(() => client.subscribe({ kind: "a" }, () => {}, { since: "k.1" }), /is still subscribed/);
  assert.equal(client.subscribe({ kind: "a" }, { offsets: true }), subscription);
  await subscription.unsubscribe();
  await subscription.subscribe();
  assert.deepEqual(server.actions.map(({ act, since }) => [act, since]), [["sub", undefined], ["unsub", undefined], ["sub", "k.17"]]);
});

test("a sub without a reply is an error after the time for it, and a late reply is valid", async (t) => {
  let answer;
  const server = await scripted(t, async (socket, next) => {
    const action = await next();
    answer = () => reply(socket, action, { ret: "a" });
    await answerAll(socket, next);
  });
  const client = connect(t, server.url, { responseTimeout: 200, heartbeat: 60_000 });
  const beat = setInterval(() => client.connected && client.subscribe({ kind: `b${server.actions.length}` }), 50); // it is not silent
  t.after(() => clearInterval(beat));
  const a = client.subscribe({ kind: "a" });
  await assert.rejects(a.subscribe(), /the server is silent/);
  assert.equal(a.state, "subscribing");
  answer();
  await a.subscribe();
  assert.deepEqual([client.errors, server.arrivals.length], [[], 1]);
});

test("an unsub without a reply ends the subscription after the time for a reply", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "a" });
    while ((await next()).act !== "sub") continue;
  });
  const client = connect(t, server.url, { responseTimeout: 100 });
  const a = client.subscribe({ kind: "a" });
  await a.subscribe();
  await a.unsubscribe();
  assert.equal(a.state, "unsubscribed");
});

/** Let a scripted server serve event streams; each answers with the positions that `positions(url, count)` returns. */
function serveStreams(server, positions) {
  serveEvents(server, (stream, count) => {
    stream.query = new URL(stream.url, "http://host").searchParams;
    stream.response.writeHead(200, { "Content-Type": "text/event-stream" });
    const data = { ids: stream.ids, ...positions(stream, count) };
    stream.write(`event: subscribed\ndata: ${JSON.stringify(data)}\n\n`);
  });
}

const send = (stream, label, value) => stream.write(`id: ${label}\ndata: ${value}\n\n`);

test("an event stream resumes each pattern after its last message", async (t) => {
  const server = await scripted(t, answerAll);
  serveStreams(server, (_, count) => (count === 1
    ? { at: ["k.16", null, "w.0"], recovered: [null, null, null] }
    : { at: ["k.17", null, "w.4"], recovered: [true, null, false] }));
  const client = connect(t, server.url, { WebSocket: undefined });
  const a = client.subscribe({ kind: "a" }, { last: 2 });
  const b = client.subscribe({ kind: "b" });
  const c = client.subscribe({ kind: "c", x: "*" }, { offsets: true });
  const messages = [a, b, c].map(recordMessages);
  const gaps = [a, b, c].map((each) => record(each, "gap"));
  await Promise.all([a, b, c].map((each) => each.subscribe()));
  const [stream] = server.streams;
  send(stream, "a@o=k.17", 1);
  send(stream, "b", 2);
  send(stream, "c@o=w.1&c=kind:c|x:1", 3);
  await until(() => messages[2].length);
  stream.response.end();
  await Promise.all([event(a, "recovered"), event(b, "gap"), event(c, "gap")]);
  send(server.streams[1], "a@o=k.18", 4);
  send(server.streams[1], "c@o=w.5&c=kind:c|x:1", 5);
  await until(() => messages[2].length === 2);
  assert.deepEqual(messages, [[[1, "k.17"], [4, "k.18"]], [[2, undefined]], [[3, "w.1"], [5, "w.5"]]]);
  assert.deepEqual(gaps.map(({ length }) => length), [0, 1, 1]);
  const queries = server.streams.map(({ query }) => ["since", "last", "offsets"].map((name) => query.getAll(name)));
  assert.deepEqual(queries, [[["", "", ""], ["2", "", ""], ["1"]], [["k.17", "", "w.1"], ["", "", ""], ["1"]]]);
  assert.ok(server.streams[1].url.indexOf("since=k.17") < server.streams[1].url.lastIndexOf("pat=")); // behind its pattern
});

test("an event stream without positions asks for none", async (t) => {
  const server = await scripted(t, answerAll);
  serveEvents(server);
  await connect(t, server.url, { WebSocket: undefined }).subscribe({ kind: "a" }).subscribe();
  assert.doesNotMatch(server.streams[0].url, /since|last|offsets/);
});

for (const epoch of ["k", "m"]) {
  test(`messages that came while a stream was replaced come once, in epoch ${epoch}`, async (t) => {
    const server = await scripted(t, answerAll);
    let opened;
    const waiting = new Promise((resolve) => (opened = resolve));
    serveEvents(server, async (stream, count) => {
      stream.response.writeHead(200, { "Content-Type": "text/event-stream" });
      if (count === 2) await waiting;
      const data = count === 1 ? { ids: ["a"], at: ["k.0"] } : { ids: ["a", "b"], at: [`${epoch}.1`, null], recovered: [true, null] };
      stream.write(`event: subscribed\ndata: ${JSON.stringify(data)}\n\n`);
    });
    const client = connect(t, server.url, { WebSocket: undefined });
    const a = client.subscribe({ kind: "a" }, { offsets: true });
    const messages = recordMessages(a);
    await a.subscribe();
    send(server.streams[0], "a@o=k.1", 1);
    await until(() => messages.length === 1);
    client.subscribe({ kind: "b" });
    await until(() => server.streams.length === 2);
    for (const n of [2, 3]) send(server.streams[0], `a@o=k.${n}`, n);
    await until(() => messages.length === 3);
    opened();
    await event(a, "recovered");
    for (const n of [2, 3, 4]) send(server.streams[1], `a@o=${epoch}.${n}`, n);
    await until(() => messages.length === 4);
    assert.deepEqual(messages, [[1, "k.1"], [2, "k.2"], [3, "k.3"], [4, `${epoch}.4`]]);
    assert.deepEqual([a.gaps, new URL(server.streams[1].url, "http://host").searchParams.getAll("since")], [0, ["k.1", ""]]);
  });
}

test("it resumes when it changes from an event stream to a WebSocket", async (t) => {
  const server = await answering(t, [[{ ret: "a", at: "k.2", recovered: true }], ["a@o=3?3"]]);
  serveStreams(server, () => ({ at: ["k.0"] }));
  const client = connect(t, server.url, { WebSocket, webSocketRetry: 20 });
  const a = client.subscribe({ kind: "a" }, { offsets: true });
  const messages = recordMessages(a);
  await a.subscribe();
  for (const n of [1, 2]) send(server.streams[0], `a@o=k.${n}`, n);
  await until(() => messages.length === 2);
  server.refuse = false;
  await until(() => messages.length === 3);
  assert.deepEqual(messages, [[1, "k.1"], [2, "k.2"], [3, "k.3"]]);
  assert.deepEqual([client.transport, server.subs[0].since, a.gaps], ["websocket", "k.2", 0]);
});
