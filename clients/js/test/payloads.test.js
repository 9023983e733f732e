// Payloads that are hard to parse: each arrives over a WebSocket and over an event stream, and none ends the client.
import assert from "node:assert/strict";
import { test } from "node:test";

import { answerAll, connect, record, reply, scripted, serveEvents, take, until } from "./support.js";

const deep = (levels, inside) => "[".repeat(levels) + inside + "]".repeat(levels);
const HUGE = "12345678901234567890123";

// Each text and its value.
const NUMBERS = [
  ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ["-9007199254740991", Number.MIN_SAFE_INTEGER],
  ["9007199254740992", "9007199254740992"],
  ["-9007199254740993", "-9007199254740993"],
  [HUGE, HUGE],
  ["1".repeat(400), "1".repeat(400)],
  ["1".repeat(100_000), "1".repeat(100_000)],
  ["1e400", "1e400"],
  ["-1.5E+0400", "-1.5E+0400"],
  [`${"1".repeat(400)}.5`, `${"1".repeat(400)}.5`],
  ["99999999999999e295", "99999999999999e295"],
  ["1.7976931348623157e308", Number.MAX_VALUE],
  ["1e-400", 0],
  [`0.${"3".repeat(3000)}`, 1 / 3],
  [`0.${"0".repeat(400)}1e402`, 10],
  ["1234567890123456.5", 1234567890123456.5],
  ["1e20", 1e20],
  ["-0", -0],
  [`[1,${HUGE},\r\n\t2]`, [1, HUGE, 2]],
  [`{"a":${HUGE},"b":{"c":[-${HUGE}]}}`, { a: HUGE, b: { c: [`-${HUGE}`] } }],
];
const STRINGS = [
  [`["1e400",${HUGE}]`, ["1e400", HUGE]],
  [`"a ${HUGE}"`, `a ${HUGE}`],
  [`["a\\" ${HUGE}, \\\\",${HUGE},"\\\\"]`, [`a" ${HUGE}, \\`, HUGE, "\\"]],
  [`["\\u1234567890123456 [1234567890123456","\\"",${HUGE}]`, ["\u1234567890123456 [1234567890123456", '"', HUGE]],
  [`{"${HUGE}":${HUGE}}`, { [HUGE]: HUGE }],
  ['"\\ud83d"', "\ud83d"],
  ['"a\\udc00b"', "a\udc00b"],
  [`["\\ud83d",${HUGE}]`, ["\ud83d", HUGE]],
  ['"a\\u0000b\u2028\ufeff\u007f"', "a\0b\u2028\ufeff\u007f"],
  ['"?a=1?b=2"', "?a=1?b=2"],
  [`"${"x".repeat(3_000_000)}"`, "x".repeat(3_000_000)],
  [`["${'\\"'.repeat(500_000)}",${HUGE}]`, ['"'.repeat(500_000), HUGE]],
];
const OBJECTS = [
  [`{"a":1,"a":${HUGE}}`, { a: HUGE }],
  ['{"":1}', { "": 1 }],
  ['{"constructor":1,"toString":2,"then":3}', { constructor: 1, toString: 2, then: 3 }],
];
const CASES = [...NUMBERS, ...STRINGS, ...OBJECTS];

/** Send texts as payloads to a client, over a WebSocket or over events; return it and what it made of them. */
async function given(t, transport, texts, options = {}) {
  let send;
  const server = await scripted(t, async (socket, next) => {
    reply(socket, await next(), { ret: "news" });
    send = (text) => socket.send(`news?${text}`);
    await answerAll(socket, next);
  });
  if (transport === "sse") {
    serveEvents(server, (stream) => {
      stream.open();
      send = (text) => stream.write(`id: news\n${text.split(/\r\n?|\n/).map((line) => `data: ${line}\n`).join("")}\n`);
    });
  }
  const client = connect(t, server.url, { ...options, ...(transport === "sse" && { WebSocket: undefined }) });
  const subscription = client.subscribe({ kind: "news" });
  const [values, told, lost] = [record(subscription, "payload"), record(subscription, "error"), record(client, "disconnect")];
  await subscription.subscribe();
  texts.forEach((text) => send(text));
  await until(() => values.length + told.length === texts.length);
  assert.deepEqual(lost, []);
  return { values, told, subscription, send };
}

for (const transport of ["websocket", "sse"]) {
  test(`over ${transport} each value arrives, and a number that a double cannot represent arrives as its text`, async (t) => {
    const { values, told } = await given(t, transport, CASES.map(([text]) => text));
    assert.deepEqual(told, []);
    CASES.forEach(([text, value], at) => assert.deepStrictEqual(values[at], value, text.slice(0, 100)));
  });

  test(`over ${transport} a key may be __proto__`, async (t) => {
    const texts = ['{"__proto__":{"x":1}}', `{"__proto__":{"x":${HUGE}}}`];
    const { values } = await given(t, transport, texts);
    assert.deepEqual(values.map((value) => Object.keys(value)), [["__proto__"], ["__proto__"]]);
    assert.deepEqual(values.map((value) => JSON.stringify(value)), [texts[0], `{"__proto__":{"x":"${HUGE}"}}`]);
    assert.equal({}.x, undefined);
  });

  test(`over ${transport} values may be nested deeply`, async (t) => {
    const levels = [1_100, 20_000, 500_000];
    const { values } = await given(t, transport, levels.flatMap((each) => [deep(each, "1"), deep(each, HUGE)]));
    values.forEach((value, at) => {
      let depth = 0;
      while (Array.isArray(value)) [value, depth] = [value[0], depth + 1];
      assert.deepEqual([value, depth], [at % 2 ? HUGE : 1, levels[Math.floor(at / 2)]]);
    });
  });

  test(`over ${transport} a payload that is not JSON is an error event, and later payloads arrive`, async (t) => {
    const wrong = ["", "NaN", "[Infinity]", "[1,]", "01", "+1", "'a'", "/*a*/1", '"\\x41"', "[", `[${HUGE}`, `{${HUGE}:1}`];
    wrong.push(`0${HUGE}`, `[--${HUGE}]`, `[${HUGE}.]`, `${HUGE}e`, "undefined");
    const { values, told, subscription, send } = await given(t, transport, transport === "sse" ? wrong.slice(1) : wrong);
    assert.deepEqual(values, []);
    for (const error of told) assert.match(error.message, /^a payload cannot be parsed: /);
    send("1");
    await until(() => values.length);
    assert.deepEqual([values, subscription.state], [[1], "subscribed"]);
  });

  test(`over ${transport} the option parse gets the text`, async (t) => {
    const { values } = await given(t, transport, [HUGE, "1e400"], { parse: (text) => [text] });
    assert.deepEqual(values, [[HUGE], ["1e400"]]);
  });
}

test("usual numbers, times and ids are parsed only once", async (t) => {
  const parse = JSON.parse;
  const parsed = [];
  t.mock.method(JSON, "parse", (text, ...rest) => parsed.push(text) && parse(text, ...rest));
  const replace = t.mock.method(String.prototype, "replace");
  const uuid = "3e123456-1e1234-4e12-8e123-12e123456789";
  const usual = { at: 1_700_000_000_000, price: 1.3700000000000003, id: "1234567890123456789", uuid };
  const { values } = await given(t, "websocket", [JSON.stringify({ ...usual, time: "2026-01-02T03:04:05.678901Z" })]);
  assert.equal(values[0].uuid, uuid);
  assert.equal(replace.mock.calls.filter(({ this: text }) => `${text}`.includes(uuid)).length, 0);
  assert.equal(parsed.filter((text) => text.includes(uuid)).length, 1);
});

test("the clock is read once for messages that arrive together, and again later", async (t) => {
  let socket;
  class Direct {
    constructor() {
      socket = this;
      setTimeout(() => this.onopen());
    }
    send(text) {
      const { id, act } = JSON.parse(text);
      if (act === "sub") setTimeout(() => this.onmessage({ data: JSON.stringify({ id, ret: "news" }) }));
    }
    close() {}
  }
  const subscription = connect(t, "ws://127.0.0.1:1/ws", { WebSocket: Direct }).subscribe({ kind: "news" });
  const values = record(subscription, "payload");
  await subscription.subscribe();
  const { mock } = t.mock.method(performance, "now");
  for (let turn = 1; turn <= 2; turn++) {
    for (let n = 0; n < 100; n++) socket.onmessage({ data: "news?1" });
    assert.deepEqual([values.length, mock.callCount()], [turn * 100, turn]);
    await undefined; // the next microtask
  }
});
