// Tokens, with scripted servers and with a real one.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";

import { APIClient, RealizehitError, WSClient } from "realizehit";
import { WebSocket } from "ws";

import { connect, event, record, reply, scripted, Server, serveEvents, setForward, until } from "./support.js";

/** Return a token function that returns `token-1`, `token-2` and so on. */
const issuer = () => {
  const give = async () => `token-${++give.asked}`;
  return Object.assign(give, { asked: 0 });
};

/** Accept each token and answer all other actions as a node does; `more` is called after each. */
const takeTokens = (more = () => {}) => async (socket, next) => {
  for (;;) {
    const action = await next();
    if (action.act === "auth") reply(socket, action, { ret: "ok" });
    else reply(socket, action, { ret: action.act === "ping" ? "pong" : `${Object.values(action.pat)[0]}` });
    more(socket, action);
  }
};
const tokens = ({ actions }) => actions.filter(({ act }) => act === "auth").map(({ token }) => token);
const expireAfterSub = takeTokens((socket, { act }) => act === "sub" && socket.close(4501, "the token has expired"));

test("the token is the first message, and subscriptions wait for the reply", async (t) => {
  let answered = false;
  const asked = [];
  const server = await scripted(t, async (socket, next) => {
    const action = await next();
    assert.deepEqual([action.act, action.token], ["auth", "abc.def"]);
    setTimeout(() => {
      answered = true;
      reply(socket, action, { ret: "ok" });
    }, 50);
    for (;;) {
      const sub = await next();
      asked.push([sub.act, answered]);
      reply(socket, sub, { ret: "news" });
    }
  });
  const urls = [];
  class Watched extends WebSocket {
    constructor(url, ...rest) {
      urls.push(url);
      super(url, ...rest);
    }
  }
  const client = connect(t, server.url, { token: "abc.def", WebSocket: Watched });
  await client.subscribe({ kind: "news" }).subscribe();
  assert.deepEqual([asked, urls], [[["sub", true]], [server.url]]);
});

test("with a function it reconnects after 4501 with a fresh token, each time", async (t) => {
  const server = await scripted(t, expireAfterSub, expireAfterSub, takeTokens());
  const client = connect(t, server.url, { token: issuer() });
  const lost = record(client, "disconnect");
  const subscription = client.subscribe({ kind: "news" });
  await until(() => subscription.gaps === 2);
  assert.deepEqual(tokens(server), ["token-1", "token-2", "token-3"]);
  assert.deepEqual(lost.map(({ status, code }) => [status, code]), [[4501, "not-authenticated"], [4501, "not-authenticated"]]);
  assert.deepEqual([subscription.state, client.errors], ["subscribed", []]);
});

for (const token of ["fixed", undefined]) {
  test(`without a function, with ${token}, it ends after 4501`, async (t) => {
    const server = await scripted(t, expireAfterSub);
    const client = connect(t, `${server.url}?token=s3cret`, { token });
    const subscription = client.subscribe({ kind: "news" });
    const told = await event(subscription, "error");
    assert.ok(told instanceof RealizehitError);
    assert.deepEqual([told.status, told.code, subscription.state], [4501, "not-authenticated", "unsubscribed"]);
    assert.match(told.message, /the token has expired/);
    assert.match(told.message, /\?token=\*\*\* /);
    assert.doesNotMatch(told.message, /s3cret/);
    assert.throws(() => client.subscribe({ kind: "other" }), { status: 4501 });
    assert.equal(server.arrivals.length, 1);
  });
}

for (const code of [4500, 4502, 4999]) {
  test(`it does not reconnect after ${code} with a function either`, async (t) => {
    const server = await scripted(t, takeTokens((socket, { act }) => act === "sub" && socket.close(code, "no")));
    const client = connect(t, server.url, { token: issuer() });
    assert.equal((await event(client.subscribe({ kind: "news" }), "error")).status, code);
    assert.equal(server.arrivals.length, 1);
  });
}

test("a refused token ends it; after a temporary refusal it tries again", async (t) => {
  const refuse = (code, err) => async (socket, next) => reply(socket, await next(), { code, err });
  const server = await scripted(t, refuse("rate-limited", "too fast"), refuse("not-authenticated", "its signature is wrong"));
  const client = connect(t, server.url, { token: issuer() });
  const error = await event(client.subscribe({ kind: "news" }), "error");
  assert.deepEqual([error.status, error.code, error.message], [401, "not-authenticated", "its signature is wrong"]);
  assert.deepEqual(client.errors.map(({ code }) => code), ["rate-limited", "not-authenticated"]);
  assert.deepEqual(server.actions.map(({ act }) => act), ["auth", "auth"]);
});

test("a function that fails is called again, and no event stream is tried", async (t) => {
  const server = await scripted(t, takeTokens());
  serveEvents(server);
  server.refuse = false;
  const values = [() => Promise.reject(new Error("the login is away")), () => "", () => undefined, () => "a\nb s3cret", () => "right"];
  let asked = 0;
  const client = connect(t, server.url, { token: () => values[asked++]() });
  await client.subscribe({ kind: "news" }).subscribe();
  assert.deepEqual([tokens(server), server.streams.length, client.transport], [["right"], 0, "websocket"]);
  assert.equal(client.errors.length, 4);
  assert.match(client.errors[0].message, /there is no token: .*the login is away/);
  for (const { message } of client.errors.slice(1)) assert.match(message, /^there is no token: .*visible ASCII$/);
});

test("a function has no time limit, is not called twice at a time, and the client may be closed meanwhile", async (t) => {
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  t.after(() => delete globalThis.addEventListener);
  const server = await scripted(t, takeTokens());
  const waiting = [];
  const token = () => new Promise((resolve) => waiting.push(resolve));
  const client = connect(t, server.url, { token, responseTimeout: 20 });
  const other = connect(t, server.url, { token: () => token() });
  const subscription = client.subscribe({ kind: "news" });
  await until(() => waiting.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 60)); // longer than it may take to connect
  for (let n = 0; n < 3; n++) target.dispatchEvent(new Event("online"));
  other.close();
  assert.deepEqual([waiting.length, client.errors, server.arrivals.length], [2, [], 0]);
  for (const resolve of waiting) resolve("late");
  await subscription.subscribe();
  assert.deepEqual([tokens(server), server.arrivals.length, other.errors], [["late"], 1, []]);
});

test("tokens that a header cannot carry are refused at once", () => {
  for (const token of ["", "a b", "a\r\nb", "é", {}, []]) {
    assert.throws(() => new WSClient("ws://127.0.0.1:1/ws", { WebSocket, token }), /visible ASCII/);
  }
});

test("a token is renewed before it ends, with several attempts if necessary, and without a gap", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const renewals = [{ ret: "ok" }, { err: "no", code: "not-authenticated" }, { ret: "ok" }];
  const server = await scripted(t, async (socket, next) => {
    for (;;) {
      const action = await next();
      reply(socket, action, action.act === "auth" ? renewals.shift() : { ret: "news" });
      if (action.act === "sub") socket.send('{"evt":"expiring","seconds":0.2}');
    }
  });
  let asked = 0;
  const client = connect(t, server.url, {
    token() {
      if (++asked === 2) throw new Error("the login is away");
      return `token-${asked}`;
    },
  });
  const told = record(client, "expiring");
  const subscription = client.subscribe({ kind: "news" });
  await until(() => !renewals.length);
  assert.deepEqual([tokens(server), told], [["token-1", "token-3", "token-4"], [0.2]]);
  await until(() => client.errors.length === 2);
  assert.match(client.errors[0].message, /the login is away/);
  assert.equal(client.errors[1].code, "not-authenticated");
  assert.deepEqual([subscription.gaps, server.arrivals.length], [0, 1]);
});

test("a token that is a text is not renewed; the client emits expiring", async (t) => {
  const server = await scripted(t, takeTokens((socket, { pat }) => pat?.kind === "news" && socket.send('{"evt":"expiring","seconds":0}')));
  const client = connect(t, server.url, { token: "fixed" });
  const told = record(client, "expiring");
  await client.subscribe({ kind: "news" }).subscribe();
  await until(() => told.length);
  await client.subscribe({ kind: "other" }).subscribe();
  assert.deepEqual([told, tokens(server)], [[0], ["fixed"]]);
});

test("an event stream has the token in a header, and is replaced before its token ends", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const server = await scripted(t, takeTokens());
  const seen = [];
  serveEvents(server, (stream, n) => {
    seen.push([stream.headers.authorization, /token/.test(stream.url)]);
    stream.open();
    if (n === 1) stream.write('event: expiring\ndata: {"seconds": 0.1}\n\n');
  });
  const client = connect(t, server.url, { WebSocket: undefined, token: issuer() });
  const subscription = client.subscribe({ kind: "news" });
  await event(subscription, "gap");
  assert.deepEqual(seen, [["Bearer token-1", false], ["Bearer token-2", false]]);
  await until(() => server.streams[0].closed);
  server.streams[1].response.end(); // as where it has expired
  await until(() => subscription.gaps === 2);
  assert.deepEqual(seen[2], ["Bearer token-3", false]);
  assert.deepEqual(client.errors, []);
});

test("a WebSocket that replaces an event stream authenticates first", async (t) => {
  const server = await scripted(t, takeTokens());
  serveEvents(server);
  const client = connect(t, server.url, { token: issuer(), webSocketRetry: 50 });
  const subscription = client.subscribe({ kind: "news" });
  await event(client, "connected");
  assert.equal(client.transport, "sse");
  server.refuse = false;
  await until(() => client.transport === "websocket");
  await subscription.subscribe();
  assert.deepEqual(server.actions.slice(0, 2).map(({ act }) => act), ["auth", "sub"]);
});

const SECRET = "s".repeat(40);
const coded = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
/** A token as an issuer makes it. */
function signed(sub, seconds) {
  const text = `${coded({ alg: "HS256", typ: "JWT" })}.${coded({ sub, exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}

for (const transport of ["websocket", "sse"]) {
  test(`over ${transport} a real server accepts tokens, and fresh ones before and after the old ones end`, async (t) => {
    process.env.REALIZEHIT_JWT_SECRET = SECRET;
    t.after(() => delete process.env.REALIZEHIT_JWT_SECRET);
    const words = ["--jwt-algorithm", "HS256", "--jwt-claim", "user=sub", "--jwt-leeway", "0", "--expiry-warning"];
    for (const [warning, renewed] of [["30", true], ["0", false]]) {
      const server = await Server.start(t, 0, "memory://", ...words, warning);
      let asked = 0;
      const client = connect(t, server.ws, {
        ...(transport === "sse" && { WebSocket: undefined }),
        token: async () => signed(42, asked++ ? 600 : 4),
      });
      const lost = record(client, "disconnect");
      const expiring = record(client, "expiring");
      const subscription = client.subscribe({ user: 42 });
      await subscription.subscribe();
      if (renewed) await until(() => asked === 2 && (transport === "websocket" || subscription.gaps));
      else await event(subscription, "gap");
      assert.deepEqual([asked, expiring.length, client.errors], [2, renewed ? 1 : 0, []]);
      assert.equal(lost.length, renewed ? 0 : 1);
      if (lost.length && transport === "websocket") assert.equal(lost[0].status, 4501);
      const received = event(subscription, "payload");
      await new APIClient(server.api).publish({ user: 42 }, "for 42");
      assert.equal(await received, "for 42");
      const refused = client.subscribe({ user: 43 });
      await assert.rejects(refused.subscribe(), { code: "forbidden" });
      client.close();
      await server.stop();
    }
  });
}

test("after sleep the client renews a token that has ended", async (t) => {
  let opened;
  const server = await scripted(t, takeTokens((socket) => (opened = socket)), takeTokens());
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  t.after(() => delete globalThis.addEventListener);
  const client = connect(t, server.url, { token: issuer() });
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  setForward(t, 8 * 3_600_000);
  opened.close(4501, "the token has expired"); // which arrives once it wakes
  target.dispatchEvent(new Event("online"));
  assert.ok((await event(subscription, "gap")) >= 8 * 3600);
  assert.deepEqual(tokens(server), ["token-1", "token-2"]);
});
