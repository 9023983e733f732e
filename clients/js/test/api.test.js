// The API client, with a real server and with scripted ones.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { APIClient, APIError, BadPattern, Forbidden, NotAuthenticated, PublishUnclear, RateLimited, RawJSON, TooLarge, Unavailable } from "realizehit/api";
import { RealizehitError } from "realizehit";

import { connect, Server } from "./support.js";

const NEWS = { kind: "news" };
const QUEUED = { status: "queued", id: "bc86961b", nodes: 1 };

/** Run an HTTP server that answers the n-th request by the n-th function, later ones by the last. */
async function answering(t, ...answers) {
  const requests = [];
  const http = createServer(async (request, response) => {
    let body = "";
    for await (const part of request.setEncoding("utf8")) body += part;
    requests.push({ url: request.url, headers: request.headers, body: body && JSON.parse(body), at: performance.now() });
    answers[Math.min(requests.length, answers.length) - 1](response, requests.at(-1));
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  t.after(() => {
    http.close();
    http.closeAllConnections();
  });
  return { requests, url: `http://127.0.0.1:${http.address().port}/` };
}

const answer = (status, body, headers) => (response) => response.writeHead(status, headers).end(JSON.stringify(body));
const refusal = (status, code, headers) => answer(status, { code, detail: "the test says so" }, headers);
const queued = answer(200, QUEUED);
const queuedAll = (response, { body }) => answer(200, { results: body.messages.map(() => QUEUED) })(response);
const dropped = (response) => response.destroy();
const now = { "Retry-After": "0" };
const keys = (requests) => requests.map(({ headers }) => headers["idempotency-key"]);

test("a real server publishes single messages and batches, and texts byte for byte", async (t) => {
  const server = await Server.start(t);
  const api = new APIClient(server.api);
  const news = connect(t, server.ws).subscribe(NEWS);
  await news.subscribe();
  const messages = news.messages();
  const text = '{"n": 123456789012345678901234567890,  "f": 1.0}';
  const result = await api.publish(NEWS, new RawJSON(text));
  assert.deepEqual([result.id, result.nodes], ["bc86961b", 1]);
  const outcomes = await api.publishMany([
    { pattern: NEWS, payload: { title: "é" } },
    { pattern: {}, payload: 1 },
    { pattern: { kind: undefined }, payload: 1 },
    { pattern: NEWS, payload: new RawJSON("{") },
    { pattern: NEWS, payload: undefined },
    { pattern: NEWS, payload: null, key: "not a key" },
    { pattern: NEWS, payload: null, key: "order-17" },
  ]);
  assert.deepEqual(outcomes.map(({ error, nodes }) => error?.code ?? nodes), [1, "bad-pattern", "bad-pattern", "bad-json", "bad-request", "bad-request", 1]);
  assert.ok(outcomes[1].error instanceof BadPattern && outcomes[2].error instanceof BadPattern);
  const texts = [];
  while (texts.length < 3) texts.push((await messages.next()).value.text);
  assert.deepEqual(texts, [text, '{"title":"é"}', "null"]);
  await assert.rejects(api.publish({ kind: "" }, 1), { name: "BadPattern", status: 400 });
  await assert.rejects(api.publish(NEWS, 1n), { name: "APIError", code: "bad-request" });
  await assert.rejects(api.publish(NEWS, "x".repeat(2 ** 21)), { name: "TooLarge", code: "too-large", status: 413 });
});

test("errors have a class for their meaning, with code, status and the server's text", async (t) => {
  for (const [kind, status, code, headers] of [
    [BadPattern, 400, "bad-pattern"],
    [NotAuthenticated, 401, "not-authenticated"],
    [Forbidden, 403, "forbidden", now],
    [TooLarge, 413, "too-large"],
    [RateLimited, 429, "rate-limited", { "Retry-After": "60" }],
    [Unavailable, 503, "unavailable", { "Retry-After": "60" }],
    [PublishUnclear, 503, "unavailable"],
    [APIError, 415, "unsupported-media-type"],
  ]) {
    const { url, requests } = await answering(t, refusal(status, code, headers));
    await assert.rejects(new APIClient(url, { retryUnclear: false }).publish(NEWS, 1), (error) => {
      assert.ok(error instanceof kind && error instanceof RealizehitError && error instanceof Error);
      assert.deepEqual([error.name, error.code, error.status, error.message], [kind.name, code, status, "the test says so"]);
      assert.equal(error.retryAfter, headers && Number(headers["Retry-After"]));
      return true;
    });
    assert.equal(requests.length, 1, code); // a delay of a minute is too long
  }
});

test("what was certainly not published is repeated three times at most, with the same key", async (t) => {
  const busy = await answering(t, refusal(429, "rate-limited"), refusal(503, "unavailable", now), queued);
  assert.equal((await new APIClient(busy.url, { backoffBase: 1 }).publish(NEWS, 1)).nodes, 1);
  assert.match(keys(busy.requests)[0], /^[0-9a-f]{32}$/);
  assert.equal(new Set(keys(busy.requests)).size, 1);

  const away = await answering(t, refusal(503, "unavailable", now));
  await assert.rejects(new APIClient(away.url, { backoffBase: 1 }).publish(NEWS, 1, { key: "k" }), Unavailable);
  assert.deepEqual(keys(away.requests), ["k", "k", "k"]);

  const free = createServer();
  free.listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address();
  free.close();
  await once(free, "close");
  const times = [];
  const fetch = (...words) => times.push(performance.now()) && globalThis.fetch(...words);
  const nobody = new APIClient(`http://127.0.0.1:${port}/`, { backoffBase: 1, fetch });
  await assert.rejects(nobody.publish(NEWS, 1), { name: "Unavailable", code: "unavailable", status: 0 });
  assert.equal(times.length, 3);
});

test("a server's date in Retry-After is heeded", async (t) => {
  const soon = (response) => refusal(503, "unavailable", { "Retry-After": new Date(Date.now() + 1500).toUTCString() })(response);
  const { url, requests } = await answering(t, soon, queued);
  const began = Date.now();
  await new APIClient(url, { backoffBase: 0 }).publish(NEWS, 1);
  assert.equal(requests.length, 2);
  assert.ok(Date.now() - began >= 400); // dates have whole seconds
});

test("what may have been published is repeated, unless the program turns that off", async (t) => {
  for (const unclear of [dropped, refusal(503, "unavailable"), (response) => response.writeHead(200).end('{"id":'), () => {}]) {
    const once = await answering(t, unclear, queued);
    await assert.rejects(new APIClient(once.url, { timeout: 300, retryUnclear: false }).publish(NEWS, 1), { name: "PublishUnclear" });
    assert.equal(once.requests.length, 1);
    const again = await answering(t, unclear, queued);
    const api = new APIClient(again.url, { timeout: 300, backoffBase: 1 });
    assert.equal((await api.publish(NEWS, 1)).nodes, 1);
    assert.equal(new Set(keys(again.requests)).size, 1);
  }
});

test("an answer whose body stalls does not outlast the time", async (t) => {
  const { url } = await answering(t, (response) => response.writeHead(200).write('{"id"'));
  await assert.rejects(new APIClient(url, { timeout: 100, backoffBase: 1 }).publish(NEWS, 1), { name: "PublishUnclear", code: "unavailable" });
});

test("redirections are not followed, and the API key stays out of messages", async (t) => {
  const { url, requests } = await answering(t, answer(307, "", { Location: "/elsewhere" }));
  const api = new APIClient(`${url}prefix`, { key: "rhk_secret" });
  await assert.rejects(api.publish(NEWS, 1), ({ name, status, message }) => name === "APIError" && status === 307 && !message.includes("secret"));
  assert.deepEqual(requests.map((each) => [each.url, each.headers.authorization]), [["/prefix/", "Bearer rhk_secret"]]);
  for (const [address, key] of [["ftp://host/", "k"], ["http://user:secret@host/", "k"], [url, "secret\n"], [url, ""]]) {
    assert.throws(() => new APIClient(address, { key }), (error) => error instanceof TypeError && !error.message.includes("secret"));
  }
});

test("many messages go in batches of 10,000 messages and 4 MiB, each message with a key of its own", async (t) => {
  const { url, requests } = await answering(t, queuedAll);
  const api = new APIClient(url);
  assert.deepEqual(await api.publishMany([]), []);
  assert.equal(requests.length, 0);
  const outcomes = await api.publishMany(Array.from({ length: 10_001 }, (_, n) => ({ pattern: NEWS, payload: n })));
  assert.ok(outcomes.length === 10_001 && outcomes.every(({ nodes }) => nodes === 1));
  const messages = requests.flatMap(({ body }) => body.messages);
  assert.deepEqual(requests.map((each) => [each.url, each.body.messages.length]), [["/batch", 10_000], ["/batch", 1]]);
  assert.deepEqual(messages.map(({ payload }) => payload), Array.from({ length: 10_001 }, (_, n) => n));
  assert.equal(new Set(messages.map(({ key }) => key)).size, 10_001);

  requests.length = 0;
  const large = { pattern: NEWS, payload: "é".repeat(2 ** 20) }; // 2 MiB in UTF-8
  const sizes = await api.publishMany([large, large, { pattern: NEWS, payload: "é".repeat(2 ** 21) }]);
  assert.deepEqual(sizes.map(({ error, nodes }) => error?.code ?? nodes), [1, 1, "too-large"]);
  assert.deepEqual(requests.map(({ body }) => body.messages.length), [1, 1]);
});

test("after a batch that the server cannot take, the rest is not sent", async (t) => {
  const { url, requests } = await answering(t, refusal(503, "unavailable", now));
  const api = new APIClient(url, { backoffBase: 1 });
  const outcomes = await api.publishMany(Array.from({ length: 10_001 }, () => ({ pattern: NEWS, payload: 1 })));
  assert.equal(requests.length, 3);
  assert.ok(outcomes.length === 10_001 && outcomes.every(({ error }) => error instanceof Unavailable));
  assert.match(outcomes[10_000].error.message, /^not sent/);
});

test("a batch that is answered with another number of results is unclear", async (t) => {
  for (const body of [{ results: [] }, { results: [QUEUED, QUEUED] }, {}, []]) {
    const { url } = await answering(t, answer(200, body));
    const [{ error }] = await new APIClient(url).publishMany([{ pattern: NEWS, payload: 1 }]);
    assert.ok(error instanceof PublishUnclear);
  }
});

const part = (messages, more) => ({ id: "bc86961b", pattern: NEWS, at: "k.17", first: 9, ...more, messages });

test("the history is read with positions, patterns and texts byte for byte", async (t) => {
  const payloads = ['{"payload": [1, {"payload": "]}"}], "a": 12345678901234567890}', ' "\\"{payload\\": é\\\\" ', "[]", "1.0", `"${"x".repeat(1_000_000)}"`];
  const texts = payloads.map((text, n) => `{"at":"k.${n + 13}","payload":${text}${n === 2 ? ',"pattern":{"kind":"payload"}' : ""}}`);
  const answers = [`{"id":"bc86961b","pattern":{"payload":"x"},"at":"k.17","first":9,"recovered":true,"more":true,"messages":[${texts}]}`];
  const server = await answering(t, (response) => response.end(answers[0]), answer(200, part([])), answer(200, { messages: 1 }));
  const api = new APIClient(`${server.url}v1`, { key: "k" });
  const { messages, ...rest } = await api.history(NEWS, { since: "k.12", limit: 5 });
  assert.deepEqual(rest, { id: "bc86961b", at: "k.17", first: 9, recovered: true, more: true });
  assert.deepEqual(messages.map(({ text }) => text), payloads.map((text) => text.trim()));
  assert.deepEqual(messages.map(({ position }) => position), ["k.13", "k.14", "k.15", "k.16", "k.17"]);
  assert.deepEqual(messages[0].payload, { payload: [1, { payload: "]}" }], a: "12345678901234567890" });
  assert.deepEqual([messages[1].payload, messages[2].pattern, messages[3].pattern], ['"{payload": é\\', { kind: "payload" }, NEWS]);
  assert.deepEqual(await api.history(NEWS), { id: "bc86961b", at: "k.17", first: 9, more: false, messages: [] });
  await assert.rejects(api.history(NEWS, { last: 2 }), { name: "APIError", status: 200 });
  const asked = server.requests.map(({ url }) => Object.fromEntries(new URL(url, "http://host").searchParams));
  assert.deepEqual(asked.map(({ pat, ...more }) => [JSON.parse(pat), more]), [[NEWS, { since: "k.12", limit: "5" }], [NEWS, {}], [NEWS, { last: "2" }]]);
  assert.deepEqual([server.requests[0].url.split("?")[0], server.requests[0].headers.authorization], ["/v1/history", "Bearer k"]);
});

test("reading the history is repeated, and its errors say that nothing is unclear", async (t) => {
  const away = refusal(503, "unavailable");
  const server = await answering(t, dropped, away, answer(200, part([{ at: "k.17", payload: 1 }])), away, away, away, refusal(404, "no-history"));
  const api = new APIClient(server.url, { backoffBase: 1, retryUnclear: false });
  assert.deepEqual((await api.history(NEWS, { last: 1 })).messages, [{ payload: 1, text: "1", pattern: NEWS, position: "k.17" }]);
  await assert.rejects(api.history(NEWS, { last: 1 }), (error) => error instanceof Unavailable && error.status === 503);
  await assert.rejects(api.history(NEWS, { last: 1 }), { name: "APIError", code: "no-history", status: 404 });
  await assert.rejects(api.history({ kind: undefined }), { name: "BadPattern" });
  assert.equal(server.requests.length, 7);
});
