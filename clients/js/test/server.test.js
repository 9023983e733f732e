// The client and a real server: REALIZEHIT_SERVER, or `realizehit-server` on the path.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { after, before, describe, test } from "node:test";

import { APIClient, RealizehitError } from "realizehit";
import { APIClient as FullClient } from "realizehit/api";
import { WebSocket } from "ws";

import { connect, event, Line, record, Server, take, until } from "./support.js";

const NEWS = { kind: "news", channel: "CNN" };

for (const transport of ["websocket", "sse"]) {
  describe(`over ${transport}`, () => {
    const options = transport === "sse" ? { WebSocket: undefined } : {};
    let server;
    let api;

    before(async () => {
      server = await Server.start();
      api = new APIClient(server.api);
    });

    after(() => server?.stop());

    test("publications arrive at their subscribers, in order", async (t) => {
      const client = connect(t, server.ws, options);
      const news = client.subscribe(NEWS);
      const other = client.subscribe({ kind: "other" });
      const called = record(news, "payload");
      await Promise.all([news.subscribe(), other.subscribe()]);
      assert.deepEqual([news.id, client.transport], ["3bf1d979", transport]);
      const reading = take(news, 1000);
      const payloads = Array.from({ length: 1000 }, (_, n) => ({ n, title: "é?\u2028\n" }));
      for (const payload of payloads) {
        const { status, id, nodes } = await api.publish(NEWS, payload);
        assert.deepEqual([status, id, nodes], ["queued", "3bf1d979", 1]);
      }
      assert.deepEqual(await reading, payloads);
      assert.deepEqual(called, payloads);
      assert.deepEqual([other.payloads, client.errors], [0, []]);
    });

    test("every JSON value arrives as the text that was published, with a parse that returns it", async (t) => {
      const client = connect(t, server.ws, { ...options, parse: (text) => text });
      const subscription = client.subscribe({ kind: "raw" });
      await subscription.subscribe();
      const reading = take(subscription, 6);
      const texts = ["null", "false", "0", '""', '{"n":12345678901234567890123,"f":1.10}', `"${"x".repeat(100_000)}"`];
      for (const text of texts) {
        const response = await fetch(server.api, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: `{"pattern":{"kind":"raw"},"payload":${text}}`,
        });
        assert.equal(response.status, 200);
      }
      assert.deepEqual(await reading, texts);
    });

    test("payloads with line ends between their tokens", async (t) => {
      const client = connect(t, server.ws, options);
      const subscription = client.subscribe({ kind: "lines" });
      await subscription.subscribe();
      const { payloads } = JSON.parse(await readFile(new URL("../../../tests/event_streams.json", import.meta.url), "utf8"));
      const reading = take(subscription, payloads.length);
      for (const text of payloads) {
        const body = `{"pattern":{"kind":"lines"},"payload":${text}}`;
        const response = await fetch(server.api, { method: "POST", headers: { "Content-Type": "application/json" }, body });
        assert.equal(response.status, 200);
      }
      assert.deepEqual(await reading, payloads.map((text) => JSON.parse(text)));
    });

    test("after unsubscribing no payload comes, and a new subscription works", async (t) => {
      const client = connect(t, server.ws, options);
      const witness = client.subscribe({ kind: "gone", who: "witness" });
      const subscription = client.subscribe({ kind: "gone" });
      const called = record(subscription, "payload");
      await Promise.all([witness.subscribe(), subscription.subscribe()]);
      const loop = take(subscription, 2);
      await api.publish({ kind: "gone" }, 1);
      await until(() => called.length);
      await subscription.unsubscribe();
      assert.deepEqual(await loop, [1]); // the loop ends
      await api.publish({ kind: "gone" }, 2);
      await api.publish(witness.pattern, 3);
      await until(() => witness.payloads);
      const again = client.subscribe({ kind: "gone" });
      assert.notEqual(again, subscription);
      await again.subscribe();
      const received = event(again, "payload");
      await api.publish({ kind: "gone" }, 4);
      assert.equal(await received, 4);
      assert.deepEqual(called, [1]);
    });

    test("two patterns with one id", async (t) => {
      const client = connect(t, server.ws, options);
      const one = client.subscribe({ user: 25442 });
      const other = client.subscribe({ user: 28322 });
      const error = await event(other, "error");
      assert.ok(error instanceof RealizehitError);
      assert.equal(error.code, "id-collision");
      await one.subscribe();
      assert.deepEqual([one.id, other.state], ["8ca68b72", "unsubscribed"]);
      const elsewhere = connect(t, server.ws, options).subscribe({ user: 28322 });
      await elsewhere.subscribe();
      const received = Promise.all([event(one, "payload"), event(elsewhere, "payload")]);
      await api.publish({ user: 25442 }, "for 25442");
      await api.publish({ user: 28322 }, "for 28322");
      assert.deepEqual(await received, ["for 25442", "for 28322"]);
    });

    test("patterns that the server refuses", async (t) => {
      const client = connect(t, server.ws, options);
      for (const [pattern, code] of [[{ kind: "" }, "bad-pattern"], [{ "*": "news" }, "bad-pattern"]]) {
        const subscription = client.subscribe(pattern);
        assert.equal((await event(subscription, "error")).code, code);
        await assert.rejects(take(subscription, 1), { code });
      }
      await client.subscribe({ kind: "fine" }).subscribe();
    });

    test("many patterns at once", async (t) => {
      const client = connect(t, server.ws, options);
      const kinds = Array.from({ length: transport === "sse" ? 100 : 1000 }, (_, n) => `many ${n}`);
      const subscriptions = kinds.map((kind) => client.subscribe({ kind }));
      await Promise.all(subscriptions.map((each) => each.subscribe()));
      const received = Promise.all(subscriptions.map((each) => event(each, "payload")));
      const messages = kinds.map((kind) => ({ pattern: { kind }, payload: kind }));
      const response = await fetch(new URL("batch", server.api), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ messages }),
      });
      assert.equal(response.status, 200);
      assert.deepEqual(await received, kinds);
      assert.deepEqual([client.errors, subscriptions.filter(({ gaps }) => gaps)], [[], []]);
    });

    test("wildcards get what they match, with its pattern, once for each subscription", async (t) => {
      const client = connect(t, server.ws, options);
      const closed = client.subscribe({ kind: "stock", symbol: "*" });
      const open = client.subscribe({ kind: "stock", "*": "*" });
      const exact = client.subscribe({ kind: "stock", symbol: "ACME é|:=" });
      const received = [closed, open, exact].map((each) => {
        const messages = [];
        each.on("payload", (payload, { pattern, text }) => messages.push([payload, pattern, text]));
        return messages;
      });
      await Promise.all([closed, open, exact].map((each) => each.subscribe()));
      const acme = { kind: "stock", symbol: "ACME é|:=" };
      const option = { kind: "stock", symbol: "X", strike: "3" };
      assert.equal((await api.publish(acme, 1)).nodes, 3); // one node, by three channels
      await api.publish({ kind: "bond", symbol: "X" }, 2);
      await api.publish(option, 3);
      await api.publish(acme, 4);
      await until(() => received.every((messages) => messages.at(-1)?.[0] === 4));
      const [first, last] = [[1, acme, "1"], [4, acme, "4"]];
      assert.deepEqual(received, [[first, last], [first, [3, option, "3"], last], [first, last]]);
      await closed.unsubscribe();
      await api.publish(acme, 5);
      await until(() => [1, 2].every((n) => received[n].at(-1)[0] === 5));
      assert.deepEqual([received[0].length, client.errors], [2, []]);
    });

    test("unsubscribing and subscribing in one turn gives another subscription", async (t) => {
      const client = connect(t, server.ws, options);
      const witness = client.subscribe({ kind: "again", who: "witness" });
      const first = client.subscribe({ kind: "again" });
      await Promise.all([witness.subscribe(), first.subscribe()]);
      for (let n = 0; n < 20; n++) {
        const old = client.getSubscription({ kind: "again" });
        const ended = old.unsubscribe();
        const next = client.subscribe({ kind: "again" });
        assert.notEqual(next, old);
        await Promise.all([ended, next.subscribe()]);
      }
      const last = client.getSubscription({ kind: "again" });
      const received = event(last, "payload");
      await api.publish({ kind: "again" }, "once");
      assert.equal(await received, "once");
      await api.publish(witness.pattern, "done");
      await until(() => witness.payloads);
      assert.deepEqual([first.payloads, last.payloads, last.state, client.errors], [0, 1, "subscribed", []]);
    });

    const broker = { skip: process.env.REALIZEHIT_VALKEY ? false : "REALIZEHIT_VALKEY names no socket of a Valkey" };
    test("the broker goes away and comes back", broker, async (t) => {
      const line = await Line.open(t);
      const server = await Server.start(t, 0, line.url, "--subscribe-timeout", "0.2");
      const api = new APIClient(server.api);
      const client = connect(t, server.ws, options);
      const [a, b] = [client.subscribe({ kind: `${process.pid} a` }), client.subscribe({ kind: `${process.pid} b` })];
      await Promise.all([a.subscribe(), b.subscribe()]);
      await line.cut();
      await assert.rejects(api.publish(a.pattern, 1), { code: "unavailable", status: 503 });
      const late = client.subscribe({ kind: `${process.pid} late` });
      await until(() => late._attempts > 1 || client.errors.length > 1); // it was refused for now, and asked again
      assert.equal(late.state, "subscribing");
      const gaps = Promise.all([a, b].map((each) => event(each, "gap")));
      await line.restore();
      for (const seconds of await gaps) assert.ok(seconds > 0 && seconds < 60, `${seconds}`);
      const all = [a, b, late];
      await Promise.all(all.map((each) => each.subscribe()));
      assert.equal(late.gaps, 0); // it was not in force before
      const received = Promise.all(all.map((each) => event(each, "payload")));
      for (const { pattern } of all) await api.publish(pattern, pattern.kind);
      assert.deepEqual(await received, all.map(({ pattern }) => pattern.kind));
      await server.stop();
    });

    for (const [signal, what] of [["SIGKILL", "killed"], ["SIGTERM", "drained"]]) {
      test(`it reconnects to a server that was ${what} and started again on its port`, async (t) => {
        const first = await Server.start(t);
        const client = connect(t, first.ws, options);
        const lost = record(client, "disconnect");
        const subscriptions = ["a", "b"].map((kind) => client.subscribe({ kind }));
        await Promise.all(subscriptions.map((each) => each.subscribe()));
        await first.stop(signal);
        await until(() => lost.length);
        assert.deepEqual(subscriptions.map(({ state }) => state), ["subscribing", "subscribing"]);
        if (signal === "SIGTERM" && transport === "websocket") assert.equal(lost[0].status, 4001);
        const gaps = Promise.all(subscriptions.map((each) => event(each, "gap")));
        const second = await Server.start(t, first.port);
        for (const seconds of await gaps) assert.ok(seconds > 0 && seconds < 60, `${seconds}`);
        const received = Promise.all(subscriptions.map((each) => event(each, "payload")));
        for (const kind of ["a", "b"]) await new APIClient(second.api).publish({ kind }, kind);
        assert.deepEqual(await received, ["a", "b"]);
        assert.deepEqual(subscriptions.map(({ gaps }) => gaps), [1, 1]);
        await second.stop();
      });
    }
  });
}

for (const transport of ["websocket", "sse"]) {
  test(`over ${transport} each message comes once, whenever the connection breaks`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "realizehit-history-"));
    t.after(() => rm(directory, { recursive: true }));
    const rules = join(directory, "history.toml");
    await writeFile(rules, '[[history]]\npattern = { kind = "chat" }\nsize = 1000\nttl = "5m"\n');
    const server = await Server.start(t, 0, "memory://", "--history", rules);
    const api = new FullClient(server.api);
    const [chat, wild] = [{ kind: "chat", room: 7 }, { kind: "chat", room: "*" }];
    let cut = () => {};
    const options = transport === "sse" ? {
      WebSocket: undefined,
      fetch: (url, request) => {
        const aborter = new AbortController();
        cut = () => aborter.abort();
        return fetch(url, { ...request, signal: AbortSignal.any([aborter.signal, request.signal]) });
      },
    } : {
      WebSocket: class extends WebSocket {
        constructor(url) {
          super(url);
          cut = () => this.terminate();
        }
      },
    };
    let published = 0;
    const publish = () => api.publish(chat, ++published);
    const { at } = await publish();
    await publish();
    await connect(t, server.ws).subscribe(wild).subscribe(); // the log of a wildcard goes on while anybody is subscribed to its shape
    const client = connect(t, server.ws, options);
    const a = client.subscribe(chat, { since: at });
    const received = record(a, "payload");
    await a.subscribe();
    const positions = [];
    const b = client.subscribe(wild, (_, { position, pattern }) => positions.push([position, pattern.room]), { offsets: true });
    await b.subscribe(); // an event stream is replaced
    for (let round = 0; round < 5; round++) {
      const back = event(a, "recovered");
      cut();
      for (let n = 0; n < 20; n++) await publish();
      await back;
    }
    await until(() => received.at(-1) === published && positions.length === 100);
    assert.deepEqual(received, Array.from({ length: published - 1 }, (_, n) => n + 2));
    assert.deepEqual([a.gaps, b.gaps, new Set(positions.map(([, room]) => room))], [0, 0, new Set(["7"])]);
    const { messages, more, at: end } = await api.history(chat, { since: at, limit: 50 });
    assert.deepEqual([messages.map(({ payload }) => payload), more, end], [Array.from({ length: 50 }, (_, n) => n + 2), true, a.position]);
    assert.deepEqual((await api.history(wild, { last: 1 })).messages.map(({ pattern, position }) => [position, pattern.room]), [positions.at(-1)]);
    const late = connect(t, server.ws, options).subscribe(chat, { last: 3 });
    assert.deepEqual(await take(late, 3), [published - 2, published - 1, published]);
    await assert.rejects(api.history({ kind: "news" }), { code: "no-history", status: 404 });
  });
}

describe("publishing", () => {
  test("a refusal of the server is an error with its code", async (t) => {
    const server = await Server.start(t);
    const api = new APIClient(server.api);
    for (const pattern of [{}, { kind: "" }]) {
      await assert.rejects(api.publish(pattern, 1), (error) => {
        assert.ok(error instanceof RealizehitError);
        assert.deepEqual([error.code, error.status], ["bad-pattern", 400]);
        return error.message.length > 10;
      });
    }
    await assert.rejects(new APIClient(new URL("nowhere", server.api)).publish(NEWS, 1), { status: 404 });
  });

  test("the key is sent, and a response that is not a problem document is an error", async (t) => {
    const requests = [];
    const http = createServer((request, response) => {
      requests.push(request.headers);
      response.writeHead(502, { "Content-Type": "text/html" }).end("<p>a proxy");
    });
    t.after(() => http.close());
    http.listen(0, "127.0.0.1");
    await once(http, "listening");
    const url = `http://127.0.0.1:${http.address().port}/`;
    await assert.rejects(new APIClient(url, { key: "secret" }).publish(NEWS, null), { status: 502, code: "" });
    await assert.rejects(new APIClient(url).publish(NEWS, null), { message: `${url} answered 502` });
    assert.deepEqual(requests.map(({ authorization }) => authorization), ["Bearer secret", undefined]);
  });
});

test("the page in the README works with the client that the server serves", async (t) => {
  const server = await Server.start(t);
  const directory = await mkdtemp(join(tmpdir(), "realizehit-page-"));
  t.after(() => rm(directory, { recursive: true }));
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const [, page] = /<script type="module">(.*?)<\/script>/s.exec(readme);
  const [, address] = /from "(.*?)"/.exec(page);
  const response = await fetch(address.replace("http://127.0.0.1:8080/", server.api));
  assert.equal(response.headers.get("content-type"), "text/javascript; charset=utf-8");
  const given = join(directory, "given.mjs");
  await writeFile(given, await response.text());
  // Node.js imports no module over HTTP, so that it stands in a file; and the clients that the page makes must end.
  const text = page
    .replace(address, pathToFileURL(given).href)
    .replace("ws://127.0.0.1:8080/ws", server.ws)
    .replace(/new WSClient\(.*?\)/, (made) => `made(${made})`);
  const script = join(directory, "page.mjs");
  await writeFile(script, text);
  const shown = [];
  const clients = [];
  const globals = {
    WebSocket,
    document: Object.assign(new EventTarget(), {
      querySelector: () => ({ append: (title) => shown.push(title) }),
      createElement: () => "",
    }),
    made: (client) => clients.push(client) && client,
  };
  Object.assign(globalThis, globals);
  t.after(() => {
    for (const name of Object.keys(globals)) delete globalThis[name];
    for (const client of clients) client.close();
  });
  await import(pathToFileURL(script).href);
  await clients[0].getSubscription(NEWS).subscribe();
  await new APIClient(server.api).publish(NEWS, { title: "hello" });
  await until(() => shown.length);
  assert.deepEqual(shown, ["hello"]);
});
