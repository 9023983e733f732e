// The driver of the JavaScript client for the conformance kit: the protocol of clients/conformance/README.md, and nothing more.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { APIClient, RawJSON } from "../api.js";
import { WSClient } from "../realizehit.js";
import { channel, id } from "../pattern.js";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket; // Node.js before 22 has none
const STATES = ["subscribing", "subscribed", "unsubscribing", "unsubscribed"];

const clients = new Map();
const subscriptions = new Map(); // by name: the subscription, its iterator, and the read that this waits for
const apis = new Map();

const write = (on, fields) => process.stdout.write(`${JSON.stringify({ on, ...fields })}\n`);

const errorOf = (error) => ({
  name: error.name,
  code: error.code ?? "",
  status: error.status || undefined,
  text: error.message,
});

class UnsupportedError extends Error {
  name = "UnsupportedError";
  code = "unsupported";
}

/** Refuse keys of a command for which the client has no parameter. */
function refuse(command, ...keys) {
  for (const key of keys) if (key in command) throw new UnsupportedError(`${command.do} has no parameter ${key}`);
}

/** Wait until the client has dropped what is too much for its queues: it does so after the turn in which that came. */
const turnEnded = () => new Promise((resolve) => setTimeout(resolve, 2));

const concrete = (pattern) => Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, `${value}`]));

function writePayload(sub, { payload, text, pattern, position }, decode) {
  write("payload", { sub, text, pattern: concrete(pattern), position, ...(decode && { value: payload }) });
}

/** Return the client's options. It has one time for connecting and for replies, which is also the second half of its heartbeat. */
function optionsOf(given, name) {
  refuse({ do: "open", ...given }, "max_message");
  const { heartbeat, tokens } = given;
  const timeouts = [given.open_timeout, given.response_timeout, heartbeat && heartbeat / 2].filter((each) => each !== undefined);
  const options = {
    WebSocket,
    sse: false, // the kit is about WebSockets
    token: given.token,
    maxsize: given.queue,
    backoffBase: given.backoff_base * 1000,
    backoffCap: given.backoff_cap * 1000,
    heartbeat: heartbeat * 500,
    responseTimeout: timeouts.length ? Math.min(...timeouts) * 1000 : undefined,
  };
  if (tokens) {
    const left = [...tokens];
    options.token = () => {
      write("token_asked", { client: name });
      const token = left.length > 1 ? left.shift() : left[0];
      if (token === null) throw new Error("the case gives no token");
      return token;
    };
  }
  return options;
}

const payloadOf = ({ text, payload }) => (text === undefined ? payload : new RawJSON(text));

const outcomeOf = ({ error, id, nodes, at, duplicate }) => (error ? { error: errorOf(error) } : { id, nodes, at, duplicate });

const commands = {
  open({ client: name, url, options = {} }) {
    const client = new WSClient(url, optionsOf(options, name));
    clients.set(name, client);
    client.on("disconnect", ({ status }) => write("disconnected", { client: name, code: status || undefined }));
    client.on("expiring", (seconds) => write("expiring", { client: name, seconds }));
    client.on("note", (note) => write("note", { client: name, note }));
    return new Promise((resolve, reject) => {
      client.on("connected", () => {
        write("connected", { client: name });
        resolve();
      });
      client.on("error", (error) => {
        write("error", { client: name, error: errorOf(error) });
        if (!client.closed) return; // it tries again
        write("ended", { client: name, error: errorOf(error) });
        reject(error);
      });
    });
  },

  async subscribe({ client, sub, pattern, read, decode, since, last, offsets }) {
    const subscription = clients.get(client).subscribe(pattern, { since, last, offsets });
    const entry = { subscription, decode };
    subscriptions.set(sub, entry);
    for (const state of STATES) subscription.on(state, () => write("state", { sub, state }));
    subscription.on("recovered", () => write("recovered", { sub }));
    subscription.on("gap", (seconds) => write("gap", { sub, seconds }));
    subscription.on("error", (error) => write("error", { sub, error: errorOf(error) }));
    if (read === "iterate") {
      entry.messages = subscription.messages();
    } else {
      subscription.on("payload", (_, message) => {
        writePayload(sub, message, decode);
        if (read === "raise") throw new Error("a callback that fails, as the case says");
      });
    }
    await subscription.subscribe();
    return { id: subscription.id };
  },

  async next({ sub, count = 1, timeout = 5, decode }) {
    const entry = subscriptions.get(sub);
    await turnEnded();
    for (let read = 0; read < count; read++) {
      let timer;
      const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout * 1000)));
      entry.next ??= entry.messages.next(); // one that was late goes to the next command
      const result = await Promise.race([entry.next, late]).finally(() => clearTimeout(timer));
      if (!result) return { count: read, ended: false };
      entry.next = undefined;
      if (result.done) return { count: read, ended: true };
      writePayload(sub, result.value, decode ?? entry.decode);
    }
    return { count, ended: false };
  },

  unsubscribe: ({ sub }) => subscriptions.get(sub).subscription.unsubscribe(),

  async stats({ sub }) {
    await turnEnded();
    const { state, dropped } = subscriptions.get(sub).subscription;
    return { state, dropped };
  },

  close: ({ client }) => clients.get(client).close(),

  api({ api, url, options = {} }) {
    const { key, timeout, backoff_base } = options;
    apis.set(api, new APIClient(url, { key, timeout: timeout * 1000, backoffBase: backoff_base * 1000 }));
  },

  async publish({ api, pattern, key, ...given }) {
    return outcomeOf(await apis.get(api).publish(pattern, payloadOf(given), { key }));
  },

  async publish_many({ api, messages }) {
    const given = messages.map(({ pattern, key, ...rest }) => ({ pattern, key, payload: payloadOf(rest) }));
    return { outcomes: (await apis.get(api).publishMany(given)).map(outcomeOf) };
  },

  async history({ api, pattern, last, since }) {
    const { messages, ...rest } = await apis.get(api).history(pattern, { last, since });
    return { ...rest, messages: messages.map(({ text, position, pattern }) => ({ text, position, pattern: concrete(pattern) })) };
  },

  pattern: ({ pattern }) => ({ text: channel(pattern, { wildcard: true }), id: id(pattern) }),

  reset() {
    for (const client of clients.values()) client.close();
    for (const names of [clients, subscriptions, apis]) names.clear();
  },
};

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g; // strings and numbers

/** Parse a command. Large integers in the pattern of `pattern` become a `bigint`, which `JSON.parse` does not do. */
function parseCommand(line) {
  const command = JSON.parse(line);
  if (command.do !== "pattern") return command;
  const text = line.replace(TOKEN, (token) => (/^-?\d{16,}$/.test(token) ? `"\\u0000integer ${token}"` : token));
  return JSON.parse(text, (_, value) => (typeof value === "string" && /^\0integer -?\d+$/.test(value) ? BigInt(value.slice(9)) : value));
}

async function run(line) {
  const { n, ...command } = parseCommand(line);
  try {
    if (!Object.hasOwn(commands, command.do)) throw new UnsupportedError(`there is no command ${command.do}`);
    write("done", { n, ...(await commands[command.do](command)) });
  } catch (error) {
    write("failed", { n, error: errorOf(error) });
  }
}

process.on("uncaughtException", (error) => console.error(error)); // that of a callback: the client goes on
write("hello", { protocol: 1, language: "javascript", version });
for await (const line of createInterface({ input: process.stdin })) run(line);
commands.reset();
