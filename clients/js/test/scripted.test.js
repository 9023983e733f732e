// The client with scripted WebSocket servers that close, stall or send unusual messages.
import assert from "node:assert/strict";
import { test } from "node:test";

import { APIClient, RealizehitError, WSClient } from "realizehit";
import { WebSocket } from "ws";

import { answerAll, answerThenClose, connect, event, record, reply, scripted, serveEvents, setForward, take, until } from "./support.js";

const kinds = (actions) => actions.filter(({ act }) => act === "sub").map(({ pat }) => pat.kind);

test("the actions of one turn are sent together, and opposite ones cancel", async (t) => {
  const collect = async (socket, next) => {
    const actions = [];
    while (actions.length < 200) actions.push(await next()); // reply only when all of them have come
    for (const action of actions) reply(socket, action, { ret: action.pat.kind });
    await answerAll(socket, next);
  };
  const server = await scripted(t, collect);
  const client = connect(t, server.url);
  const subscriptions = Array.from({ length: 200 }, (_, n) => client.subscribe({ kind: `${n}` }));
  client.subscribe({ kind: "not meant" }).unsubscribe();
  await until(() => subscriptions.every((each) => each.subscribed()));
  assert.deepEqual(kinds(server.actions), subscriptions.map(({ pattern }) => pattern.kind));
  const before = server.actions.length;
  const [one, other] = [client.subscribe({ kind: "one" }), client.subscribe({ kind: "other" })];
  await Promise.resolve(); // a later moment of the same turn
  const third = client.subscribe({ kind: "third" });
  other.unsubscribe();
  await Promise.all([one.subscribe(), third.subscribe()]);
  assert.deepEqual(kinds(server.actions.slice(before)), ["one", "third"]);
  assert.equal(other.state, "unsubscribed");
});

for (const [backoffBase, delay] of [[1, 600], [60_000, 50]]) {
  test(`it waits for the delay of 4001, ${delay} ms with a back-off of ${backoffBase}`, async (t) => {
    const server = await scripted(t, answerThenClose(1, 4001, `delay=${delay}`), answerAll);
    const client = connect(t, server.url, { backoffBase, backoffCap: 60_000 });
    const subscription = client.subscribe({ kind: "news" });
    await event(subscription, "gap");
    const away = server.arrivals[1] - server.arrivals[0];
    assert.ok(away >= delay - 2 && away < delay + 15_000, `${away}`);
  });
}

for (const code of [4500, 4501, 4503, 4999]) {
  test(`it does not reconnect after ${code}`, async (t) => {
    const server = await scripted(t, answerThenClose(2, code, "no more"), answerAll);
    const client = connect(t, server.url, { backoffBase: 0 });
    const subscription = client.subscribe({ kind: "news" });
    const other = client.subscribe({ kind: "other" });
    const told = record(subscription, "error");
    other.on("error", () => {});
    await assert.rejects(take(subscription, 1), (error) => error instanceof RealizehitError && error.status === code);
    await until(() => client.errors.length);
    assert.deepEqual([...client.errors, ...told].map(({ status }) => status), [code, code]);
    assert.match(client.errors[0].message, /no more/);
    assert.deepEqual([subscription.state, other.state, client.connected], ["unsubscribed", "unsubscribed", false]);
    assert.equal(client.closed, true);
    assert.throws(() => client.subscribe({ kind: "third" }), { status: code });
    await new Promise((resolve) => setTimeout(resolve, 50)); // enough time to reconnect, if it did so
    assert.equal(server.arrivals.length, 1);
  });
}

for (const code of [1000, 1001, 1011, 4002, 4003]) {
  test(`it reconnects after ${code} and subscribes to everything in order`, async (t) => {
    const server = await scripted(t, answerThenClose(3, code), answerAll);
    const client = connect(t, server.url);
    const lost = record(client, "disconnect");
    const subscriptions = ["a", "b", "c"].map((kind) => client.subscribe({ kind }));
    await until(() => subscriptions.every(({ gaps }) => gaps));
    assert.deepEqual(kinds(server.actions), ["a", "b", "c", "a", "b", "c"]);
    assert.deepEqual(lost.map(({ status }) => status), [code]);
  });
}

test("the back-off is drawn evenly below a bound that doubles up to the cap", async (t) => {
  const delays = [];
  t.mock.method(Math, "random", () => 1);
  const real = globalThis.setTimeout;
  t.mock.method(globalThis, "setTimeout", (call, delay, ...rest) => {
    if (delay > 0 && delay < 10_000) delays.push(delay);
    return real(call, delay > 0 && delay < 10_000 ? 0 : delay, ...rest);
  });
  class Nowhere {
    send() {}
    close() {}
    constructor() {
      real(() => this.onclose?.({ code: 1006, reason: "", wasClean: false }));
    }
  }
  const client = new WSClient("ws://127.0.0.1/", { WebSocket: Nowhere, sse: false, backoffBase: 100, backoffCap: 1500 });
  client.on("error", () => {});
  const deadline = Date.now() + 15_000;
  while (delays.length < 6 && Date.now() < deadline) await new Promise((resolve) => real(resolve, 1));
  client.close();
  assert.deepEqual(delays.slice(0, 6), [100, 200, 400, 800, 1500, 1500]);
});

test("a gap counts from the last sign of life if the connection breaks", async (t) => {
  const server = await scripted(
    t,
    async (socket, next) => {
      reply(socket, await next(), { ret: "x" });
      await next();
      socket.terminate();
    },
    answerAll,
  );
  const client = connect(t, server.url, { heartbeat: 300, responseTimeout: 300 }); // the ping comes after that silence
  const seconds = await event(client.subscribe({ kind: "news" }), "gap");
  assert.ok(seconds >= 0.29 && seconds < 20, `${seconds}`);
});

test("a gap counts from the last sign of life if a slow consumer is closed", async (t) => {
  let close;
  const server = await scripted(
    t,
    async (socket, next) => {
      reply(socket, await next(), { ret: "x" });
      close = () => socket.close(4002, "slow consumer"); // what waited for it is thrown away before
    },
    answerAll,
  );
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  setForward(t, 5000);
  close();
  assert.ok((await event(subscription, "gap")) >= 5);
});

for (const [what, days] of [["back", -30], ["forward", 30]]) {
  test(`setting the system clock ${what} changes nothing`, async (t) => {
    const server = await scripted(t, answerAll);
    const client = connect(t, server.url, { heartbeat: 300, responseTimeout: 100 });
    const subscription = client.subscribe({ kind: "a" });
    await subscription.subscribe();
    serveEvents(server);
    const events = connect(t, server.url, { heartbeat: 300, WebSocket: undefined }).subscribe({ kind: "a" });
    await events.subscribe();
    const lost = record(client, "disconnect");
    t.mock.method(Date, "now", () => performance.timeOrigin + performance.now() + days * 86_400_000);
    const { setTimeout } = globalThis;
    let timers = 0;
    globalThis.setTimeout = (call, delay, ...rest) => setTimeout(call, delay, ...rest, (timers += delay !== 5)); // but for `until`
    t.after(() => (globalThis.setTimeout = setTimeout));
    await until(() => server.actions.filter(({ act }) => act === "ping").length === 2);
    assert.deepEqual(lost, []);
    await until(() => events.gaps); // they were silent
    assert.ok(timers < 30, `${timers}`);
    server.refuse = false;
    server.cut();
    const seconds = await event(subscription, "gap");
    assert.ok(seconds >= 0 && seconds < 20, `${seconds}`);
  });
}

test("delays that are too long for a timer, or not numbers, cause no busy loop", async (t) => {
  const delays = [];
  t.mock.method(globalThis, "setTimeout", ((real) => (call, delay, ...rest) => {
    delays.push(delay);
    return real(call, delay, ...rest);
  })(globalThis.setTimeout));
  t.mock.method(globalThis, "setInterval", ((real) => (call, delay, ...rest) => {
    delays.push(delay);
    return real(call, delay, ...rest);
  })(globalThis.setInterval));
  const names = ["backoffBase", "backoffCap", "heartbeat", "responseTimeout", "webSocketRetry"];
  for (const value of [Infinity, 1e12, undefined, NaN, -1]) {
    const options = Object.fromEntries(names.map((name) => [name, value]));
    const server = await scripted(t, answerAll);
    const client = connect(t, server.url, options);
    await client.subscribe({ kind: "a" }).subscribe();
    client.close();
    serveEvents(server, (stream) => {
      stream.open();
      stream.write('event: drain\ndata: {"delay": 1e300}\n\n');
    });
    const other = connect(t, server.url, { ...options, WebSocket: class extends WebSocket {} });
    const subscription = other.subscribe({ kind: "a" });
    await event(other, "error"); // the server refused the first WebSocket
    other.close();
    const events = connect(t, server.url, { ...options, WebSocket: undefined });
    await events.subscribe({ kind: "a" }).subscribe();
    server.streams.at(-1).response.end();
    await event(events, "disconnect");
    events.close();
    assert.equal(subscription.state, "unsubscribed");
  }
  const wrong = delays.filter((delay) => delay !== undefined && !(delay >= 0 && delay < 2 ** 31));
  assert.deepEqual(wrong, []);
});

test("a subscription that the server has not confirmed is sent again on the next connection, without a gap", async (t) => {
  const server = await scripted(
    t,
    async (socket, next) => {
      await next();
      socket.terminate();
    },
    answerAll,
  );
  const client = connect(t, server.url, { sse: false });
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  assert.equal(subscription.gaps, 0);
  assert.deepEqual(kinds(server.actions), ["news", "news"]);
});

test("an unsubscription that the server has not confirmed ends with the connection", async (t) => {
  const server = await scripted(
    t,
    async (socket, next) => {
      reply(socket, await next(), { ret: "x" });
      await next();
      socket.send("x?1");
      socket.terminate();
    },
    answerAll,
  );
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  await subscription.unsubscribe();
  assert.deepEqual([subscription.state, subscription.payloads], ["unsubscribed", 0]);
  await until(() => server.arrivals.length === 2);
});

test("after a temporary refusal it asks again, a final one ends the subscription", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { err: "no broker", code: "unavailable" });
    reply(socket, await next(), { err: "two patterns with one id", code: "id-collision" });
    await answerAll(socket, next);
  });
  const client = connect(t, server.url);
  const later = client.subscribe({ kind: "later" });
  const never = client.subscribe({ kind: "never" });
  const told = record(never, "error");
  await assert.rejects(later.subscribe(), { code: "unavailable", message: "no broker" });
  await later.subscribe(); // the client goes on asking
  assert.equal(never.state, "unsubscribed");
  assert.deepEqual(told.map(({ code, message }) => [code, message]), [["id-collision", "two patterns with one id"]]);
  assert.deepEqual(kinds(server.actions), ["later", "never", "later"]);
  await assert.rejects(take(never, 1), { code: "id-collision" });
  assert.deepEqual(client.subscriptions, [later]);
  await never.subscribe();
  assert.equal(never.state, "subscribed");
});

test("unknown messages are ignored; a payload that is not JSON is an error event", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    const action = await next();
    for (const odd of ["", "?", "nobody?1", "[]", "{", "null", '{"id":"unknown","ret":"x"}', "x@o=1?1", "x?early"]) {
      socket.send(odd);
    }
    reply(socket, action, { ret: "x" });
    for (const text of ['x?{"question":"a?b\u2028"}', "x?{", "x?null"]) socket.send(text);
    await answerAll(socket, next);
  });
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "news" });
  const told = record(subscription, "error");
  assert.deepEqual(await take(subscription, 2), [{ question: "a?b\u2028" }, null]);
  assert.equal(told.length, 1);
  assert.match(told[0].message, /cannot be parsed/);
});

test("a reply without an id is an error event", async (t) => {
  const server = await scripted(t, async (socket, next) => reply(socket, await next(), {}));
  const client = connect(t, server.url);
  const error = await event(client.subscribe({ kind: "news" }), "error");
  assert.match(error.message, /no id/);
});

test("a silent connection is given up", async (t) => {
  const server = await scripted(
    t,
    async (socket, next) => {
      reply(socket, await next(), { ret: "x" }); // and nothing any more
    },
    answerAll,
  );
  const client = connect(t, server.url, { heartbeat: 100, responseTimeout: 100 });
  await event(client.subscribe({ kind: "news" }), "gap");
  assert.equal(server.actions[1].act, "ping");
});

test("a server that never answers the handshake is given up, and an event stream is tried", async (t) => {
  const server = await scripted(t, answerAll);
  const asked = [];
  class Silent {
    close() {}
  }
  const client = connect(t, server.url, { WebSocket: Silent, responseTimeout: 50, fetch: async (url) => {
    asked.push(url.href);
    throw new TypeError("nothing there");
  } });
  client.subscribe({ kind: "news" });
  await until(() => asked.length);
  assert.match(client.errors[0].message, /no connection .* in time/);
  assert.equal(decodeURIComponent(asked[0]), `${server.url.replace("ws:", "http:").replace(/ws$/, "sse")}?pat={"kind":"news"}`);
});

test("an error event without a close event, as on some platforms", async (t) => {
  let made = 0;
  class Quiet {
    constructor() {
      made++;
      setTimeout(() => this.onerror?.());
    }
    close() {}
  }
  const client = connect(t, "ws://127.0.0.1:1/ws", { WebSocket: Quiet, sse: false });
  await until(() => made >= 3);
  assert.match(client.errors[0].message, /no connection/);
});

test("a client that is closed in a callback stays closed", async (t) => {
  const server = await scripted(t, answerThenClose(1, 1001), answerAll);
  for (const [emitter, name] of [["client", "disconnect"], ["subscription", "subscribing"], ["client", "connected"]]) {
    server.arrivals.length = 0;
    const client = connect(t, server.url, { backoffBase: 1 });
    const subscription = client.subscribe({ kind: "news" });
    if (name === "subscribing") await event(subscription, "subscribed");
    const closed = event({ client, subscription }[emitter], name).then(() => client.connected);
    ({ client, subscription })[emitter].on(name, () => client.close());
    assert.equal(await closed, false);
    assert.equal(subscription.state, "unsubscribed");
    client.errors.length = 0;
    await new Promise((resolve) => setTimeout(resolve, 50)); // enough time to reconnect, if it did so
    assert.deepEqual([server.arrivals.length, client.connected, client.errors], [1, false, []]);
  }
});

test("it reconnects when the network or the page comes back, but waits for a delay that the server named", async (t) => {
  const target = new EventTarget();
  const page = Object.assign(new EventTarget(), { hidden: true });
  globalThis.document = page;
  globalThis.addEventListener = target.addEventListener.bind(target);
  t.after(() => {
    delete globalThis.document;
    delete globalThis.addEventListener;
  });
  t.mock.method(Math, "random", () => 1);
  const scripts = [answerThenClose(1, 1001), answerThenClose(1, 1001), answerThenClose(1, 4001, "delay=400"), answerAll];
  const server = await scripted(t, ...scripts);
  const client = connect(t, server.url, { backoffBase: 60_000, backoffCap: 60_000 }); // it would never come back in time
  const subscription = client.subscribe({ kind: "news" });
  await event(client, "disconnect");
  page.dispatchEvent(new Event("visibilitychange")); // hidden
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(server.arrivals.length, 1);
  page.hidden = false;
  page.dispatchEvent(new Event("visibilitychange"));
  await event(client, "disconnect");
  target.dispatchEvent(new Event("online"));
  await event(client, "disconnect");
  const closed = Date.now();
  target.dispatchEvent(new Event("online"));
  await until(() => server.arrivals.length === 4);
  assert.ok(server.arrivals[3] - closed >= 390, `${server.arrivals[3] - closed}`);
  await until(() => subscription.gaps === 3);
  const before = server.actions.length;
  page.dispatchEvent(new Event("visibilitychange")); // is the connection still there?
  await until(() => server.actions.length > before);
  assert.equal(server.actions.at(-1).act, "ping");
  client.close();
  target.dispatchEvent(new Event("online"));
});

test("when the network comes back it connects anew, or tests the event stream", async (t) => {
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  t.after(() => delete globalThis.addEventListener);
  const made = [];
  class Silent {
    constructor() {
      made.push(this);
    }
    close() {
      this.closed = true;
    }
  }
  const waiting = connect(t, "ws://127.0.0.1:1/ws", { WebSocket: Silent, responseTimeout: 60_000 });
  await until(() => made.length === 1);
  target.dispatchEvent(new Event("online"));
  await until(() => made.length === 2);
  assert.deepEqual(made.map(({ closed }) => closed), [true, undefined]);
  waiting.close();

  const server = await scripted(t, answerAll);
  serveEvents(server);
  const client = connect(t, server.url, { WebSocket: undefined });
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  target.dispatchEvent(new Event("online")); // something came a moment ago
  setForward(t, 100_000); // timers slept meanwhile
  target.dispatchEvent(new Event("online"));
  assert.ok((await event(subscription, "gap")) >= 100);
  assert.equal(server.streams.length, 2);
});

test("a slow loop loses the oldest payloads, and a gap tells of it", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "x" });
    await next(); // it reads
    for (let n = 0; n < 10; n++) socket.send(`x?${n}`);
    await answerAll(socket, next);
  });
  const client = connect(t, server.url, { maxsize: 3 });
  const subscription = client.subscribe({ kind: "news" });
  await subscription.subscribe();
  const told = record(subscription, "gap");
  const first = subscription[Symbol.asyncIterator]();
  const reading = first.next();
  client.subscribe({ kind: "other" });
  assert.equal((await reading).value, 0);
  await until(() => subscription.dropped === 10 - 1 - 3);
  const rest = [];
  while (rest.length < 3) rest.push((await first.next()).value);
  assert.deepEqual(rest, [7, 8, 9]);
  assert.deepEqual([told, subscription.gaps], [[0], 1]);
});

test("a loop that keeps up loses nothing, however much comes at once", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "x" });
    for (let n = 0; n < 500; n++) socket.send(`x?${n}`);
    await answerAll(socket, next);
  });
  const client = connect(t, server.url, { maxsize: 3 });
  const subscription = client.subscribe({ kind: "news" });
  assert.deepEqual(await take(subscription, 500), Array.from({ length: 500 }, (_, n) => n));
  assert.equal(subscription.dropped, 0);
});

test("an exception in a callback does not affect others", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "x" });
    socket.send("x?1");
    await answerAll(socket, next);
  });
  const thrown = [];
  const real = globalThis.setTimeout;
  t.mock.method(globalThis, "setTimeout", (call, delay, ...rest) =>
    real(() => {
      try {
        call(...rest);
      } catch (error) {
        thrown.push(error.message);
      }
    }, delay),
  );
  const client = connect(t, server.url);
  const subscription = client.subscribe({ kind: "news" }, () => {
    throw new Error("mine");
  });
  assert.equal(await event(subscription, "payload"), 1);
  await until(() => thrown.length);
  assert.deepEqual(thrown, ["mine"]);
});

test("an error event without a callback is written to the console", async (t) => {
  const server = await scripted(t, async (socket, next) => reply(socket, await next(), { err: "no", code: "forbidden" }));
  const written = [];
  t.mock.method(console, "error", (value) => written.push(value));
  const client = connect(t, server.url);
  client.subscribe({ kind: "news" });
  await until(() => written.length);
  assert.equal(written[0].code, "forbidden");
});

test("addresses", () => {
  const look = (url, options) => {
    const client = new WSClient(url, { WebSocket, ...options });
    client.close();
    return client.url;
  };
  assert.equal(look("ws://example.org"), "ws://example.org/ws");
  assert.equal(look("https://example.org/rt/ws?k=1"), "wss://example.org/rt/ws?k=1");
  globalThis.location = { href: "https://example.org/page" };
  try {
    assert.equal(look("/ws"), "wss://example.org/ws");
  } finally {
    delete globalThis.location;
  }
  assert.throws(() => look("ftp://example.org/"), /no WebSocket: ftp/);
  assert.throws(() => look("ws"), TypeError);
  assert.throws(() => look("ws://example.org/", { WebSocket: undefined, sse: false }), /no WebSocket/);
});

test("patterns that JSON would change are refused at once", async (t) => {
  const server = await scripted(t, answerAll);
  const client = connect(t, server.url);
  assert.throws(() => client.subscribe({ kind: "news", user: undefined }), /the filter user is undefined/);
  assert.throws(() => client.subscribe(null), TypeError);
  assert.throws(() => client.subscribe("kind=news"), TypeError);
  const one = client.subscribe({ a: 3, b: true });
  assert.equal(client.subscribe({ b: "true", a: "3" }), one);
  assert.equal(client.getSubscription({ b: true, a: 3.0 }), one);
  const odd = client.subscribe({ "a,b": "c", a: "b,c" });
  assert.equal(client.subscribe({ a: "b,c", "a,b": "c" }), odd);
  const word = client.subscribe({ kind: "null" });
  for (const value of [null, NaN, ["null"], { null: 1 }]) assert.notEqual(client.subscribe({ kind: value }), word);
  await assert.rejects(new APIClient("http://127.0.0.1:1/").publish({ kind: undefined }, 1), /the filter kind is undefined/);
  await assert.rejects(new APIClient("http://127.0.0.1:1/").publish({ kind: "x" }, undefined), /the payload is undefined/);
});

test("states, counters and names", async (t) => {
  const server = await scripted(t, answerAll);
  const client = connect(t, server.url);
  assert.deepEqual([client.connected, client.disconnected, client.closed, client.transport], [false, true, false, undefined]);
  const subscription = client.subscribe({ kind: "news" });
  const seen = [];
  for (const name of ["subscribing", "subscribed", "unsubscribing", "unsubscribed"]) {
    subscription.on(name, () => seen.push([name, subscription[name]()]));
  }
  assert.equal(await event(client, "connected"), "websocket");
  await subscription.subscribe();
  assert.deepEqual([client.connected, client.disconnected, client.transport], [true, false, "websocket"]);
  const ended = client.unsubscribe({ kind: "news" });
  await assert.rejects(subscription.subscribe(), /is still subscribed/);
  await ended;
  assert.deepEqual(seen, [["subscribing", true], ["subscribed", true], ["unsubscribing", true], ["unsubscribed", true]]);
  await subscription.subscribe(); // again
  const other = event(client, "disconnect");
  client.disconnect();
  await other;
  assert.equal(subscription.state, "unsubscribed");
  assert.throws(() => client.subscribe({ kind: "news" }), /the client was closed/);
  assert.equal(client.closed, true);
  client.close();
});

test("a gap at the server's broker is an event, and a subscription that the server ends says why", async (t) => {
  const server = await scripted(t, async (socket, next) => {
    for (const ret of ["aaaaaaaa", "bbbbbbbb"]) reply(socket, await next(), { ret });
    socket.send('{"evt":"gap","ids":["aaaaaaaa","cccccccc"],"seconds":1.5}');
    socket.send('{"evt":"of a later version","ids":["aaaaaaaa"]}');
    socket.send('{"evt":"unsubscribed","ids":["bbbbbbbb"],"code":"forbidden","reason":"no more of this"}');
    socket.send("aaaaaaaa?1");
    socket.send("bbbbbbbb?2");
    await answerAll(socket, next);
  });
  const client = connect(t, server.url);
  const [one, other] = [client.subscribe({ kind: "one" }), client.subscribe({ kind: "other" })];
  const [told, ended, payloads] = [record(one, "gap"), record(other, "error"), record(other, "payload")];
  assert.deepEqual(await take(one, 1), [1]);
  assert.deepEqual([told, one.gaps, one.state, payloads], [[1.5], 1, "subscribed", []]);
  assert.deepEqual([ended[0].code, ended[0].message, other.state], ["forbidden", "no more of this", "unsubscribed"]);
  assert.deepEqual([client.subscriptions, client.connected], [[one], true]);
});

test("the server gets the close code 1000", async (t) => {
  let closed;
  const server = await scripted(t, async (socket, next) => {
    closed = new Promise((resolve) => socket.on("close", resolve));
    reply(socket, await next(), { ret: "a" });
  });
  const client = connect(t, server.url);
  await client.subscribe({ kind: "news" }).subscribe();
  client.close();
  assert.equal(await closed, 1000);
});
