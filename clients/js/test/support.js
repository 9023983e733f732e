// What the tests share: waiting, a real server, and scripted servers of WebSockets and event streams.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import { once } from "node:events";
import { createInterface } from "node:readline";

import { WebSocket, WebSocketServer } from "ws";

import { WSClient } from "../realizehit.js";

const PATIENCE = 20_000; // ms for what takes a few on an idle machine

/** Wait until a condition holds. */
export async function until(condition, what = `${condition}`) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const value = condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${PATIENCE} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Wait for an event of a client or a subscription; return its first value. */
export function event(emitter, name) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no event ${name} within ${PATIENCE} ms`)), PATIENCE);
    emitter.once(name, (...values) => {
      clearTimeout(timer);
      resolve(values[0]);
    });
  });
}

/** Collect the first value of each event. */
export function record(emitter, name) {
  const values = [];
  emitter.on(name, (value) => values.push(value));
  return values;
}

/** Set the client's clock forward by so many ms. */
export function setForward(t, ms) {
  const now = performance.now.bind(performance);
  t.mock.method(performance, "now", () => now() + ms);
}

/** Read so many payloads. */
export async function take(subscription, count) {
  const payloads = [];
  if (count) {
    for await (const payload of subscription) if (payloads.push(payload) === count) break;
  }
  return payloads;
}

/** Make a client that the test closes; its errors are kept in `client.errors`. */
export function connect(t, url, options = {}) {
  const client = new WSClient(url, { WebSocket, backoffBase: 20, backoffCap: 100, ...options });
  client.errors = record(client, "error");
  t.after(() => client.close());
  return client;
}

/** A realizehit server in its own process. */
export class Server {
  /** Start one and wait until it serves. It ends with the test `t`; without `t`, call `stop`. */
  static async start(t, port = 0, redis = "memory://", ...more) {
    const command = process.env.REALIZEHIT_SERVER ?? "realizehit-server";
    const words = ["--host", "127.0.0.1", "--port", `${port}`, "--redis", redis];
    words.push("--drain-seconds", "0.1", "--log-level", "warning", ...more);
    const child = spawn(command, words, { stdio: ["ignore", "pipe", "inherit"] });
    const server = new Server();
    server.child = child;
    server.ended = once(child, "exit");
    t?.after(() => server.stop("SIGKILL"));
    let text = "";
    for await (const line of createInterface({ input: child.stdout })) {
      text += `${line}\n`;
      server.ws ??= /ws:\/\/127\.0\.0\.1:\d+\/ws/.exec(text)?.[0];
      server.api ??= /http:\/\/127\.0\.0\.1:\d+\//.exec(text)?.[0];
      if (server.ws && server.api) break;
    }
    if (!server.ws) throw new Error(`${command} ended and printed no addresses: ${text}`);
    child.stdout.resume();
    server.port = Number(new URL(server.ws).port);
    return server;
  }

  async stop(signal = "SIGTERM") {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    await this.ended;
  }
}

/** A proxy to the broker, whose Unix socket REALIZEHIT_VALKEY names; a test can cut it and restore it. */
export class Line {
  static async open(t) {
    const line = new Line();
    line.sockets = new Set();
    line.server = createTcpServer((near) => {
      const far = connectTcp(process.env.REALIZEHIT_VALKEY);
      for (const [one, other] of [[near, far], [far, near]]) {
        line.sockets.add(one);
        one.on("error", () => {}).on("close", () => other.destroy()).pipe(other);
      }
    });
    await line.restore();
    t.after(() => line.cut());
    return line;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  async restore() {
    this.server.listen(this.port ?? 0, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
  }

  async cut() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    this.sockets.clear();
    await closed;
  }
}

/**
 * Run a WebSocket server whose n-th connection follows the n-th script, later ones the last.
 *
 * A script takes `(socket, next)`, where `next()` waits for the next action.
 */
export async function scripted(t, ...scripts) {
  const http = createServer((request, response) => server.plain(request, response));
  const sockets = new WebSocketServer({ noServer: true });
  const server = {
    arrivals: [],
    actions: [],
    refuse: false, // whether handshakes are refused
    refused: 0,
    plain: (_request, response) => response.writeHead(404).end(),
  };
  http.on("upgrade", (request, socket, head) => {
    if (server.refuse) {
      server.refused++;
      socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      return;
    }
    sockets.handleUpgrade(request, socket, head, (opened) => {
      const arrived = [];
      const waiting = [];
      opened.on("message", (data) => {
        const action = JSON.parse(data);
        server.actions.push(action);
        if (waiting.length) waiting.shift()(action);
        else arrived.push(action);
      });
      const next = () => new Promise((resolve) => (arrived.length ? resolve(arrived.shift()) : waiting.push(resolve)));
      server.arrivals.push(Date.now());
      scripts[Math.min(server.arrivals.length, scripts.length) - 1](opened, next);
    });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  server.url = `ws://127.0.0.1:${http.address().port}/ws`;
  server.cut = () => {
    for (const socket of sockets.clients) socket.terminate();
    http.closeAllConnections();
  };
  t.after(() => {
    http.close();
    server.cut();
  });
  return server;
}

export const reply = (socket, action, more) => socket.send(JSON.stringify({ id: action.id, ...more }));

/** Answer each action as a node would, with an id made of the pattern's first value. */
export async function answerAll(socket, next) {
  for (;;) {
    const action = await next();
    reply(socket, action, { ret: action.act === "ping" ? "pong" : `${Object.values(action.pat)[0]}` });
  }
}

/** Answer so many actions, then close. */
export const answerThenClose = (count, code, reason) => async (socket, next) => {
  for (let n = 0; n < count; n++) {
    const action = await next();
    reply(socket, action, { ret: `${Object.values(action.pat)[0]}` });
  }
  socket.close(code, reason);
};

/** An event stream of a scripted server, as the documentation describes it. */
export class Events {
  constructor(request, response) {
    this.patterns = new URL(request.url, "http://host").searchParams.getAll("pat").map((text) => JSON.parse(text));
    this.ids = this.patterns.map((pattern) => `${Object.values(pattern)[0]}`);
    [this.url, this.headers, this.response] = [request.url, request.headers, response];
    this.closed = false;
    response.on("close", () => (this.closed = true));
  }
  /** Answer; `errors` holds an error for each pattern that is refused. */
  open(errors) {
    this.response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store" });
    const ids = this.ids.map((id, at) => (errors?.[at] ? null : id));
    this.write(`retry: 2000\nevent: subscribed\ndata: ${JSON.stringify({ ids, ...(errors && { errors }) })}\n\n`);
  }
  write(text) {
    this.response.write(text);
  }
  payload(id, value) {
    this.write(`id: ${id}\ndata: ${JSON.stringify(value)}\n\n`);
  }
}

/** Let a scripted server refuse WebSockets and serve event streams, which `server.streams` collects. */
export function serveEvents(server, opened = (stream) => stream.open()) {
  server.refuse = true;
  server.streams = [];
  server.plain = (request, response) => {
    if (!request.url.startsWith("/sse?")) return response.writeHead(404).end();
    const stream = new Events(request, response);
    server.streams.push(stream);
    opened(stream, server.streams.length);
  };
}
