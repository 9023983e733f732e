/**
 * realizehit for JavaScript: `WSClient` subscribes, `APIClient` publishes. One file, no dependencies; it runs in
 * browsers, Node.js, Deno and Bun.
 *
 * The rules of this file. A client has at most one link to a server: a WebSocket, or a stream of events over HTTP where
 * WebSockets do not get through. A link tells three things, `up`, `message` and `down`, and is never used again after
 * `down`; what comes from a link that is not the client's any more is ignored. Each pattern stands once on the wire.
 * The server names the id under which a pattern's payloads come, so none can come before its answer.
 *
 * @license MIT
 * @module
 */

const STABLE_AFTER = 10_000; // ms that a link must last to count as a success, as in every realizehit client
const NUMBERS = {
  maxsize: 1024, backoffBase: 500, backoffCap: 30_000, heartbeat: 60_000, responseTimeout: 10_000, webSocketRetry: 120_000,
};
const FOR_NOW = /^(unavailable|rate-limited)$/; // codes of a refusal that may not be the last word
const FOR_GOOD = /^(401|403|4[5-9]\d\d)$/; // HTTP statuses and close codes after which no server is bothered again
const EXPIRED = 4501; // the close code where a token has ended, or its key was replaced
const LONGEST = 2 ** 31 - 1; // ms of a timer; every platform takes a longer one for none at all
// Finds out without parsing whether a text may hold a number that no double holds as it is written: an integer of 16 digits
// or more, or an exponent of three. It takes some strings for such numbers, too.
const LARGE = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;
const MOST_ASKED = 300_000; // ms that a server may keep a client from coming back, as in every realizehit client
const MAX_ADDRESS = 7000; // characters of a stream's address, before its last pattern; many a proxy takes 8 KiB at most

/** A clock in ms that nobody sets, for what lasts. */
const now = () => performance.now();

/** Return a delay in ms that a timer can have, whatever was asked for. @param {number} delay */
const timely = (delay) => Math.min(Math.max(delay, 0) || 0, LONGEST);

/**
 * Return the value of a JSON text, where each number that a double cannot hold as it is written is a string of its digits:
 * integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`.
 *
 * @param {string} text
 * @returns {any}
 */
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (!LARGE.test(text)) return value;
  let inString = false;
  // An escape, a quote or a number at a time: however long or deep the text is, nothing recurses.
  const quoted = text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  });
  return quoted === text ? value : JSON.parse(quoted);
};

/** Return a token that can be sent; what refuses others would show them in its message. @param {unknown} token */
const checkToken = (token) => {
  if (typeof token !== "string" || !/^[!-~]+$/.test(token)) throw new TypeError("the token is no text of visible ASCII characters");
  return token;
};

/** An error that a server gave, or the loss of a connection. */
export class RealizehitError extends Error {
  name = "RealizehitError";

  /**
   * @param {string} message for people.
   * @param {string} [code] the server's stable code, for programs; empty where it gave none.
   * @param {number} [status] the HTTP status, or the close code of a WebSocket.
   */
  constructor(message, code = "", status = 0) {
    super(`${message}`.replace(/([?&]token=)[^&\s]+/g, "$1***")); // addresses stand in messages, and messages in logs
    /** The server's stable code, or an empty string. */
    this.code = code;
    /** The HTTP status, or the WebSocket's close code; 0 where there was none. */
    this.status = status;
  }
}

/**
 * Something that callbacks can be attached to. A callback that fails harms nobody here: its error is thrown where the
 * platform reports uncaught ones. An `error` that nobody listens to is written to the console.
 *
 * @template {Record<string, any[]>} Events
 */
class Emitter {
  /** @type {Map<keyof Events, Function[]>} */
  #callbacks = new Map();

  /** @param {keyof Events} event */
  #of(event) {
    return this.#callbacks.get(event) ?? [];
  }

  /**
   * Call `callback` at each such event.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  on(event, callback) {
    this.#callbacks.set(event, [...this.#of(event), callback]);
    return this;
  }

  /**
   * Call `callback` at the next such event only.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  once(event, callback) {
    /** @param {Events[Name]} values */
    const first = (...values) => {
      this.off(event, first);
      callback(...values);
    };
    return this.on(event, first);
  }

  /**
   * Call `callback` no more.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  off(event, callback) {
    this.#callbacks.set(event, this.#of(event).filter((each) => each !== callback));
    return this;
  }

  /**
   * @internal
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {Events[Name]} values
   */
  _emit(event, ...values) {
    const callbacks = this.#of(event);
    if (event === "error" && !callbacks.length) console.error(values[0]);
    for (const callback of callbacks) {
      try {
        callback(...values);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * @typedef {Record<string, string | number | boolean>} Pattern a set of filters, such as `{kind: "news"}`
 * @typedef {"subscribing" | "subscribed" | "unsubscribing" | "unsubscribed"} SubscriptionState
 */

/**
 * @template [Payload=any]
 * @typedef {{
 *   payload: [payload: Payload], subscribing: [], subscribed: [], unsubscribing: [], unsubscribed: [],
 *   gap: [seconds: number], error: [error: Error],
 * }} SubscriptionEvents
 */

/**
 * What a client asked for. Made by `WSClient.subscribe`.
 *
 * Events: `payload` (payload); `subscribing`, `subscribed`, `unsubscribing`, `unsubscribed` when the state changed; `gap`
 * (seconds) when it is in force again after the connection was away, so that messages may be missing; `error` (error)
 * when it ended by itself, or a payload could not be parsed and was left out.
 *
 * @template [Payload=any] what its payloads are; only the types know it, nothing checks it
 * @extends {Emitter<SubscriptionEvents<Payload>>}
 */
export class Subscription extends Emitter {
  /** Its label on the wire, empty until it was in force once. */
  id = "";
  /** @type {SubscriptionState} */
  state = "unsubscribed";
  /** How many payloads came. */
  payloads = 0;
  /** How many gaps there were. */
  gaps = 0;
  /** How many payloads were lost because an iterator was read too slowly. */
  dropped = 0;
  /** @internal @type {string} what tells patterns apart */
  _key;
  /** @internal how often it was asked for since it was last in force */
  _attempts = 0;
  /** @internal the id of its last `sub` */
  _request = "";

  #client;
  /** @type {Set<{waiting: any[], wake: Function}>} */
  #readers = new Set();
  /** @type {Error | undefined} why it ended by itself */
  #error;
  /** @type {number | undefined} when messages began to be missing */
  #awaySince;

  /**
   * @internal
   * @param {WSClient} client
   * @param {Pattern} pattern
   * @param {string} key
   */
  constructor(client, pattern, key) {
    super();
    this.#client = client;
    /** The pattern as it was given. */
    this.pattern = { ...pattern };
    this._key = key;
  }

  /** Whether the state is `subscribing`. */
  subscribing() {
    return this.state === "subscribing";
  }
  /** Whether the state is `subscribed`. */
  subscribed() {
    return this.state === "subscribed";
  }
  /** Whether the state is `unsubscribing`. */
  unsubscribing() {
    return this.state === "unsubscribing";
  }
  /** Whether the state is `unsubscribed`. */
  unsubscribed() {
    return this.state === "unsubscribed";
  }

  /**
   * Subscribe, again if it has ended, and wait until that is in force: nothing published from then on is missed.
   *
   * @returns {Promise<void>} rejected where the server refuses it, or it is ended meanwhile.
   */
  async subscribe() {
    this.#client._join(this);
    await this.#until("subscribed", "unsubscribed");
    if (!this.subscribed()) throw this.#error ?? new RealizehitError("it was unsubscribed");
  }

  /**
   * End the subscription. Nothing is handed out any more; what waits is thrown away.
   *
   * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
   */
  async unsubscribe() {
    if (this.subscribed() || this.subscribing()) {
      this._move("unsubscribing");
      this.#wake(true);
      this.#client._leave(this);
    }
    await this.#until("unsubscribed");
  }

  /**
   * Hand out payloads from now on. Each loop has a queue of its own, which drops its oldest payload when it is full.
   *
   * @returns {AsyncGenerator<Payload, void, void>} ends with the subscription; throws where that ended by itself.
   */
  async *[Symbol.asyncIterator]() {
    const reader = { waiting: /** @type {any[]} */ ([]), wake: /** @type {Function} */ (() => {}) };
    this.#readers.add(reader);
    try {
      for (;;) {
        while (reader.waiting.length) yield reader.waiting.shift();
        if (this.#error) throw this.#error;
        if (this.unsubscribed() || this.unsubscribing()) return;
        await new Promise((resolve) => (reader.wake = resolve));
      }
    } finally {
      this.#readers.delete(reader);
    }
  }

  /** @param {SubscriptionState[]} states @returns {Promise<void>} */
  #until(...states) {
    return new Promise((resolve) => {
      if (states.includes(this.state)) resolve();
      else for (const state of states) this.once(state, resolve);
    });
  }

  #wake(discard = false) {
    for (const reader of this.#readers) {
      if (discard) reader.waiting.length = 0;
      reader.wake();
    }
  }

  /** @internal @param {SubscriptionState} state */
  _move(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit(state);
  }

  /** @internal */
  _begin() {
    this.#error = undefined;
    this.#awaySince = undefined;
    this.state = "subscribing";
    // Whoever asked has yet to attach its callbacks.
    queueMicrotask(() => this.subscribing() && this._emit("subscribing"));
  }

  /** @internal @param {string} text @param {{parse: (text: string) => any, maxsize: number}} options */
  _deliver(text, { parse, maxsize }) {
    if (!this.subscribed()) return;
    let payload;
    try {
      payload = parse(text);
    } catch (error) {
      this._emit("error", new RealizehitError(`a payload cannot be parsed: ${error}`));
      return;
    }
    this.payloads++;
    for (const { waiting } of this.#readers) {
      if (waiting.push(payload) !== maxsize + 1) continue;
      // Not at once: many payloads may come in one turn of the event loop, in which no reader has its own.
      setTimeout(() => {
        this.dropped += waiting.splice(0, waiting.length - maxsize).length;
      });
    }
    this.#wake();
    this._emit("payload", payload);
  }

  /** @internal @param {string} id */
  _inForce(id) {
    this.id = id;
    this._attempts = 0;
    this._move("subscribed");
    if (this.#awaySince !== undefined && this.subscribed()) {
      const seconds = (now() - this.#awaySince) / 1000;
      this.#awaySince = undefined;
      this._gap(seconds);
    }
  }

  /** @internal @param {number} seconds */
  _gap(seconds) {
    this.gaps++;
    this._emit("gap", seconds);
  }

  /** @internal @param {number} since */
  _interrupted(since) {
    if (!this.subscribed()) return;
    this.#awaySince ??= since;
    this._move("subscribing");
  }

  /** @internal @param {Error} [error] */
  _finish(error) {
    this.#error = error;
    this._move("unsubscribed");
    this.#wake(!error);
    if (error) this._emit("error", error);
  }
}

/**
 * @typedef {object} SocketLike what is used of a WebSocket
 * @property {(text: string) => void} send
 * @property {() => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 * @property {any} onerror
 *
 * @typedef {object} Options times are in milliseconds
 * @property {new (url: string) => SocketLike} [WebSocket] in place of the platform's; Node.js before 22 has none.
 * @property {(url: URL, request: RequestInit) => Promise<Response>} [fetch] in place of the platform's.
 * @property {string | URL | false} [sse] where the stream of events is, `sse` beside the WebSocket's address where it
 *   is not given; false to use WebSockets only.
 * @property {(text: string) => any} [parse] makes a payload of its JSON text. By default it is `JSON.parse`, but
 *   that integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`, are strings of their digits.
 * @property {string | (() => string | Promise<string>)} [token] says who the client is, where the server asks. A function
 *   is called for each connection, before its token ends, and once that has ended; it gives a fresh one each time.
 * @property {number} [maxsize] how many payloads may wait in an iterator, 1024.
 * @property {number} [backoffBase] the first bound of the delay before reconnecting, 500.
 * @property {number} [backoffCap] the last bound of it, 30000.
 * @property {number} [heartbeat] silence after which a ping is sent, 60000.
 * @property {number} [responseTimeout] for connecting, and for an answer to a ping, 10000.
 * @property {number} [webSocketRetry] between attempts to leave the stream of events for a WebSocket, 120000.
 *
 * @typedef {object} Link
 * @property {"websocket" | "sse"} kind
 * @property {number} count of what came over it
 * @property {(message: object) => void} [send] a WebSocket's
 * @property {() => void} close ends it without a word
 * @property {(delay: number, why: string) => void} expire loses it after so many ms, unless it is up by then
 * @property {ReturnType<typeof setTimeout>} [timer] for that; with a stream of events that is up, for trying a WebSocket
 * @property {Subscription[]} [wanted] what there was to be asked for when a stream of events was opened
 */

/**
 * Return what reads the text of an event stream, however it is cut, as the HTML standard says in section 9.2.6.
 *
 * @param {(name: string, data: string, id: string) => void} take called with each event; an unnamed one is a `message`.
 * @param {(ms: number) => void} retry called with the time after which to come back, once the stream has ended.
 */
const parser = (take, retry) => {
  let [rest, name, data, id] = ["", "", "", ""];
  let cut = false; // whether the last line ended with a CR at the end of a piece, so that an LF may belong to it
  /** @param {string} text */
  return (text) => {
    const lines = (cut ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    cut = text.endsWith("\r");
    lines[0] = rest + lines[0]; // which is not searched again
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) {
      const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)/s.exec(line));
      if (!line) {
        if (data) take(name || "message", data.slice(0, -1), id);
        name = data = "";
      } else if (field === "data") data += `${value}\n`;
      else if (field === "event") name = value;
      else if (field === "retry" && /^\d+$/.test(value)) retry(+value);
      else if (field === "id" && !value.includes("\0")) id = value;
    }
  };
};

/**
 * Read what a server says instead of what was asked for, and what it says of each pattern.
 *
 * @param {Response} response
 */
const problem = async (response) => {
  const { code, detail, errors } = (await response.json().catch(() => null)) ?? {};
  const error = new RealizehitError(detail ?? `${response.url} answered ${response.status}`, code, response.status);
  return Object.assign(error, { detail, errors });
};

/**
 * Return what is equal for two spellings of one pattern, such as `3` and `"3"`.
 *
 * @param {Pattern} pattern
 */
const keyOf = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    // JSON would leave it out, and the pattern would be a wider one.
    if (text === undefined) throw new TypeError(`the filter ${key} is ${typeof value}`);
    // Numbers and booleans are the texts that they stand for; what else there is, the server refuses.
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};

/**
 * Subscribe over a WebSocket, or over a stream of events where WebSockets do not get through, and stay subscribed.
 *
 *     const client = new WSClient("wss://example.org/ws");
 *     client.subscribe({ kind: "news" }).on("payload", (payload) => console.log(payload));
 *
 * It connects by itself, and reconnects with a full-jitter back-off or after the delay that a server asked for. A server
 * that closes with 4500 to 4999 is not bothered again.
 *
 * Events: `connected` (kind) each time a connection is there; `disconnect` (error) when it is gone; `expiring` (seconds)
 * when its token ends soon; `error` (error) when an attempt failed, or the server will not have the client.
 *
 * @extends {Emitter<{
 *   connected: [kind: "websocket" | "sse"], disconnect: [error: RealizehitError], expiring: [seconds: number], error: [error: Error],
 * }>}
 */
export class WSClient extends Emitter {
  /** The WebSocket's address. */
  url;
  /** @type {Required<Omit<Options, "sse" | "token">> & Pick<Options, "token">} */
  #options;
  /** @type {URL | undefined} */
  #sse;
  /** @type {Map<string, Subscription>} what is wanted, by key */
  #wanted = new Map();
  /** @type {Map<string, Subscription>} what is in force, by id */
  #inForce = new Map();
  /** @type {Map<Subscription, "sub" | "unsub">} what this turn of the event loop asked for */
  #turn = new Map();
  /** @type {Map<string, ["sub" | "unsub", Subscription] | ["auth", (code?: string, detail?: string) => void]>} what each reply will be about */
  #replies = new Map();
  #lastId = 0;

  /** @type {Link | undefined} the link that is used or being opened */
  #link;
  /** @type {Link | undefined} a stream of events that is to take the place of another one */
  #next;
  #isUp = false;
  #upAt = 0;
  #heard = 0; // when the last of it came
  #attempts = 0; // since there was a link that lasted
  #sentAway = 0; // how often a server named the time to come back, since then
  #failures = 0; // of WebSockets, since there was one over which anything came
  #asked = false; // whether the server named the time to come back
  /** @type {RealizehitError | undefined} */
  #ended;

  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #flush;
  /** @type {ReturnType<typeof setTimeout> | undefined} for the next link, or for this one to show that it is there */
  #timer;
  #page = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} for a fresh token */
  #renewal;
  /** @type {Promise<string> | undefined} a token that is on its way */
  #token;

  /**
   * @param {string | URL} url where the WebSocket is: `wss://host/ws`, or relative to the page.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    super();
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(address.protocol)) throw new TypeError(`${url} is no WebSocket`);
    if (address.pathname === "/") address.pathname = "/ws";
    this.url = address.href;
    this.#options = {
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch,
      parse: parseExact,
      ...NUMBERS,
      ...options,
    };
    // One that is given as undefined, or is no number, is the default too.
    for (const [name, value] of Object.entries(NUMBERS)) {
      const option = /** @type {keyof typeof NUMBERS} */ (name);
      if (!(this.#options[option] >= 0)) this.#options[option] = value;
    }
    const { sse = `sse${address.search}`, token } = options;
    if (token != null && typeof token !== "function") checkToken(token);
    if (sse) this.#sse = new URL(sse, this.url.replace("ws", "http"));
    if (!this.#options.WebSocket) {
      if (!sse) throw new TypeError("there is no WebSocket");
      this.#failures = 2;
    }
    const on = { signal: this.#page.signal };
    globalThis.addEventListener?.("online", () => this.#wake(), on);
    const page = globalThis.document;
    page?.addEventListener("visibilitychange", () => page.hidden || this.#wake(), on);
    // What is subscribed to in this turn goes out at once when the connection is there.
    this.#timer = setTimeout(() => this.#connect());
  }

  /** Whether a connection is there. */
  get connected() {
    return this.#isUp;
  }

  /** Whether no connection is there. */
  get disconnected() {
    return !this.#isUp;
  }

  /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
  get transport() {
    return this.#isUp ? this.#link?.kind : undefined;
  }

  /** Those that have not ended. */
  get subscriptions() {
    return [...this.#wanted.values()];
  }

  /**
   * Subscribe to a pattern. Asked again for the same pattern, it returns the same subscription.
   *
   * @template [Payload=any] what the payloads are, for TypeScript: `subscribe<News>({ kind: "news" })`. Nothing checks it.
   * @param {Pattern} pattern
   * @param {(payload: Payload) => void} [callback] for its `payload` event.
   * @returns {Subscription<Payload>}
   */
  subscribe(pattern, callback) {
    const subscription = this.getSubscription(pattern) ?? new Subscription(this, pattern, keyOf(pattern));
    if (callback) subscription.on("payload", callback);
    this._join(subscription);
    return subscription;
  }

  /**
   * End the subscription to a pattern, if there is one.
   *
   * @param {Pattern} pattern
   */
  async unsubscribe(pattern) {
    await this.getSubscription(pattern)?.unsubscribe();
  }

  /**
   * Return the subscription to a pattern, if there is one.
   *
   * @template [Payload=any] what the payloads are, for TypeScript.
   * @param {Pattern} pattern
   * @returns {Subscription<Payload> | undefined}
   */
  getSubscription(pattern) {
    return this.#wanted.get(keyOf(pattern));
  }

  /** End all subscriptions and the connection, for good. */
  close() {
    this.#end();
  }

  /** The same as `close`. */
  disconnect() {
    this.close();
  }

  /** @internal @param {Subscription} subscription */
  _join(subscription) {
    const { _key } = subscription;
    const other = this.#wanted.get(_key);
    if (this.#ended) throw this.#ended;
    if (other === subscription) return;
    if (other) throw new Error("there is another subscription");
    if (!subscription.unsubscribed()) throw new Error("it is unsubscribing");
    this.#wanted.set(_key, subscription);
    subscription._begin();
    this.#ask(subscription, "sub");
  }

  /** @internal @param {Subscription} subscription */
  _leave(subscription) {
    this.#wanted.delete(subscription._key);
    const unsaid = this.#turn.delete(subscription);
    if (!unsaid && this.#isUp && this.#link?.send) return this.#ask(subscription, "unsub");
    this.#forget(subscription);
    this.#flush ??= setTimeout(() => this.#send());
  }

  // ---- what is asked for

  /** @param {Subscription} subscription @param {"sub" | "unsub"} act */
  #ask(subscription, act) {
    this.#turn.set(subscription, act);
    this.#flush ??= setTimeout(() => this.#send());
  }

  /** Send what one turn of the event loop asked for. */
  #send() {
    this.#flush = undefined;
    const turn = [...this.#turn];
    this.#turn.clear();
    const link = this.#link;
    const waiting = [];
    for (const [subscription, act] of turn) {
      if (this.#isUp && link?.send) this.#act(act, subscription);
      else if (act === "unsub") this.#forget(subscription);
      else waiting.push(subscription);
    }
    if (link?.send) return; // what waits for a WebSocket is asked for when that is up
    if (link && !this.#wanted.size) this.#lose(link, new RealizehitError("nothing is subscribed", "", 400));
    else if (this.#isUp) {
      // What a stream of events is about cannot be changed under way: another one takes its place once it is there.
      if (waiting.every((each) => this.#next?.wanted?.includes(each))) return;
      this.#next?.close();
      this.#next = this.#openEvents();
    } else if (waiting.some((each) => !link?.wanted?.includes(each)) && this.#failures > 1 && this.#sse && !this.#asked) {
      link?.close();
      this.#connect(true);
    }
  }

  /** @param {any} act `sub`, `unsub` or `ping` @param {Subscription} [subscription] */
  #act(act, subscription) {
    const id = `${++this.#lastId}`;
    if (subscription) {
      this.#replies.delete(subscription._request); // a server owes none to a `sub` that an `unsub` overtook
      subscription._request = id;
      this.#replies.set(id, [act, subscription]);
    }
    this.#link?.send?.({ id, act, pat: subscription?.pattern });
  }

  /**
   * Take the answer to a `sub`.
   *
   * @param {Subscription} subscription
   * @param {unknown} id
   * @param {string} [code]
   * @param {string} [detail]
   */
  #answered(subscription, id, code = "", detail = "the server named no id") {
    if (this.#wanted.get(subscription._key) !== subscription) return; // nobody wants it any more
    if (typeof id === "string") {
      this.#inForce.set(id, subscription);
      subscription._inForce(id);
    } else if (FOR_NOW.test(code)) {
      setTimeout(() => {
        if (subscription.subscribing() && this.#wanted.has(subscription._key)) this.#ask(subscription, "sub");
      }, timely(this.#jitter(subscription._attempts++)));
    } else this.#forget(subscription, new RealizehitError(detail, code));
  }

  /**
   * Be done with a subscription.
   *
   * @param {Subscription} subscription
   * @param {Error} [error] why, where it was not asked for
   */
  #forget(subscription, error) {
    if (this.#inForce.get(subscription.id) === subscription) this.#inForce.delete(subscription.id);
    if (error) this.#wanted.delete(subscription._key);
    subscription._finish(error);
  }

  /** Be without what was in force: all that came after the last thing heard may be missing. */
  #interrupt() {
    this.#inForce.clear();
    for (const subscription of this.subscriptions) subscription._interrupted(this.#heard);
  }

  // ---- the token

  /**
   * Return the token, from the function if one was given; undefined if the client has no token.
   *
   * @returns {Promise<string> | undefined}
   */
  #freshToken() {
    const { token } = this.#options;
    if (token == null) return;
    return (this.#token ??= (async () => {
      try {
        return checkToken(await (typeof token === "function" ? token() : token));
      } catch (error) {
        throw new RealizehitError(`there is no token: ${error}`);
      }
    })().finally(() => (this.#token = undefined)));
  }

  /**
   * Give a link a fresh token before the one that it has ends.
   *
   * @param {Link} link
   * @param {number} delay in ms
   * @param {number} [attempts]
   */
  #renew(link, delay, attempts = 0) {
    clearTimeout(this.#renewal);
    this.#renewal = setTimeout(async () => {
      try {
        const token = /** @type {string} */ (await this.#freshToken());
        if (link !== this.#link) return;
        if (link.send) await this.#authenticate(link, token);
        else {
          // A stream of events has the token that it was opened with.
          this.#next?.close();
          this.#next = this.#openEvents(token);
        }
      } catch (error) {
        if (link !== this.#link) return;
        this._emit("error", /** @type {Error} */ (error));
        this.#renew(link, this.#jitter(attempts), attempts + 1);
      }
    }, timely(delay));
  }

  /** Send a token; wait for the answer. @param {Link} link @param {string} token @returns {Promise<void>} */
  #authenticate(link, token) {
    return new Promise((resolve, reject) => {
      const id = `${++this.#lastId}`;
      this.#replies.set(id, ["auth", (code, detail = "") => {
        if (code === undefined) resolve();
        else reject(new RealizehitError(detail, code, FOR_NOW.test(code) ? 0 : 401));
      }]);
      link.send?.({ id, act: "auth", token });
    });
  }

  // ---- the link

  /** Open a link. @param {boolean} events whether to leave WebSockets alone */
  #connect(events = !this.#options.WebSocket) {
    if (this.#ended) return; // by a callback, a moment ago
    clearTimeout(this.#timer);
    this.#asked = false;
    if (events && !this.#wanted.size) this.#later(); // there is nothing to ask for
    else this.#link = events ? this.#openEvents() : this.#openSocket();
  }

  /** Open a link after a delay. @param {number} [asked] the delay in ms that the server asked for */
  #later(asked) {
    let delay;
    if (asked === undefined) delay = this.#jitter(this.#attempts++);
    else {
      // Servers that ask for no delay, one after the other, are not bothered without a pause.
      const least = this.#sentAway && this.#jitter(this.#sentAway);
      delay = Math.min(Math.max(asked, least), MOST_ASKED);
      this.#sentAway++;
    }
    this.#timer = setTimeout(() => this.#connect(), timely(delay));
  }

  /**
   * Make a link, which is lost where it is not up in time.
   *
   * @param {Link["kind"]} kind
   * @param {string | URL} url
   * @param {() => void} stop ends what it is made of, also again
   */
  #newLink(kind, url, stop) {
    /** @type {Link} */
    const link = {
      kind,
      count: 0,
      close() {
        clearTimeout(link.timer);
        stop();
      },
      expire: (delay, why) => {
        clearTimeout(link.timer);
        const lost = new RealizehitError(`no connection to ${url}${why}`);
        link.timer = setTimeout(() => this.#lose(link, lost), timely(delay));
      },
    };
    link.expire(this.#options.responseTimeout, " in time");
    return link;
  }

  #openSocket() {
    const { url } = this;
    /** @type {SocketLike | undefined} */
    let socket;
    let over = false;
    const link = this.#newLink("websocket", url, () => {
      over = true;
      socket?.close();
    });
    link.send = (message) => socket?.send(JSON.stringify(message));
    /** @param {string} [token] */
    const open = (token) => {
      if (over) return;
      link.expire(this.#options.responseTimeout, " in time");
      try {
        socket = new this.#options.WebSocket(url);
        socket.onopen = () => {
          if (token === undefined) this.#up(link);
          // Scripts set no headers here, and addresses are logged: the token is the first message.
          else this.#authenticate(link, token).then(() => over || this.#up(link), (error) => this.#lose(link, error));
        };
        socket.onmessage = (/** @type {{data: string}} */ { data }) => {
          const [, id, payload] = /^(\w+)\?(.*)/s.exec(data) ?? [];
          if (link === this.#link) this.#message(link, payload ?? data, id);
          else if (!over) this.#reply(data); // beside a stream of events, of which it is to take the place
        };
        // A close follows at once, and tells more; but not on every platform.
        socket.onerror = () => link.expire(0, "");
        socket.onclose = (/** @type {{code: number, reason: string}} */ { code, reason }) => {
          const asked = code === 4001 && /^delay=(\d{1,9})$/.exec(reason);
          const error = new RealizehitError(`the connection to ${url} ended: ${code} ${reason}`, "", code);
          if (code === EXPIRED) {
            error.code = "not-authenticated";
            error.message += "; where the option `token` is a function, the client comes back with a fresh one";
          }
          this.#lose(link, error, asked ? +asked[1] : undefined);
        };
      } catch (error) {
        link.expire(0, `: ${error}`);
      }
    };
    const token = this.#freshToken();
    if (token) {
      clearTimeout(link.timer); // a function that gives tokens may ask a person
      token.then(open, (error) => {
        link.count++; // WebSockets have not failed
        this.#lose(link, error);
      });
    } else open();
    return link;
  }

  /**
   * Open a stream of events. It is read with `fetch` and not with `EventSource`, which shows neither why a server refuses
   * nor the heartbeats, sends no token but in the address, and would reconnect by rules of its own.
   *
   * @param {string} [token] a fresh one, with which to take the place of a stream whose token ends
   */
  #openEvents(token) {
    const wanted = this.subscriptions;
    const url = new URL(/** @type {URL} */ (this.#sse));
    let asked = 0; // how many of them there is room for
    for (const { pattern } of wanted) {
      if (url.href.length > MAX_ADDRESS) break;
      url.searchParams.append("pat", JSON.stringify(pattern));
      asked++;
    }
    const abort = new AbortController();
    const { signal } = abort;
    const link = this.#newLink("sse", url, () => abort.abort());
    link.wanted = wanted;
    /** @type {number | undefined} after which the server asks to come back */
    let delay;
    let failure = new RealizehitError(`the connection to ${url} ended`);

    /** @param {{ids?: (string | null)[], errors?: ({code: string, detail: string} | null)[], code?: string, detail?: string}} answer */
    const answered = ({ ids, errors, ...all }) =>
      wanted.forEach((each, at) => {
        const { code, detail } = errors?.[at] ?? all;
        if (at < asked) this.#answered(each, ids?.[at], code, detail);
        else if (each.subscribing() && !each._attempts++) {
          each._emit("error", new RealizehitError("too-many-subscriptions for events", "too-many-subscriptions"));
        }
      });

    /** @param {string} name @param {string} text @param {string} id */
    const take = (name, text, id) => {
      if (signal.aborted) return;
      if (name === "message") return this.#message(link, text, id);
      let data;
      try {
        data = Object(JSON.parse(text));
      } catch {
        return; // no event that this client knows
      }
      if (name === "subscribed") {
        this.#next = delay = undefined;
        // One in place of another that brings nothing new would cost a gap for nothing.
        if (token || link === this.#link || wanted.some((each, at) => data.ids?.[at] && each.subscribing())) this.#up(link);
        else link.close();
        answered(data);
      } else if (name === "drain" && Number.isFinite(data.delay) && data.delay >= 0) ({ delay } = data);
      else if (name === "unavailable") failure = new RealizehitError(data.detail, data.code, data.status);
      else this.#told(name, data);
    };

    const read = async () => {
      const { fetch, responseTimeout } = this.#options; // which may not be called as a method
      /** @type {RequestInit} */
      const request = { cache: "no-store", signal };
      const fresh = token ?? this.#freshToken();
      if (fresh) {
        clearTimeout(link.timer);
        request.headers = { Authorization: `Bearer ${await fresh}` };
        if (signal.aborted) return;
        link.expire(responseTimeout, " in time");
      }
      /** @param {RequestCredentials} credentials */
      const ask = (credentials) => fetch(url, { ...request, credentials });
      // Cookies say who this is, as they do with a WebSocket. To pages that may not use the server the answer is closed
      // then; without cookies it says why.
      const response = await ask("include").catch(async (error) => {
        const other = await ask("omit");
        if (other.ok) throw error;
        return other;
      });
      if (!response.ok) {
        const error = await problem(response);
        const after = /^\d+$/.exec(response.headers.get("retry-after") ?? ""); // seconds; a date needs a clock that is right
        if (after) delay = +after[0] * 1000;
        if (error.status === 400) answered(error);
        throw error;
      }
      const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser(take, (ms) => (delay = ms));
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        this.#message(link); // whatever comes, a heartbeat too, is a sign of life
        parse(value);
      }
    };
    read().then(
      () => this.#lose(link, failure, delay),
      (error) => (error.status ? this.#lose(link, error, delay) : link.expire(0, `: ${error}`)),
    );
    return link;
  }

  /** Begin to use a link. @param {Link} link */
  #up(link) {
    const before = this.transport;
    if (this.#link !== link) {
      if (this.#ended || this.#link?.send) return link.close();
      // It takes the place of a stream of events.
      this.#halt();
      this.#link = link;
      this.#interrupt();
      if (this.#ended) return;
    }
    clearTimeout(link.timer);
    this.#isUp = true;
    this.#upAt = this.#heard = now();
    if (link.send) {
      this.#turn.clear();
      for (const subscription of this.subscriptions) this.#act("sub", subscription);
      if (this.#wanted.size) this.#guard(link, link.count);
      else this.#ping(link); // so that something comes back
    } else {
      link.timer = setInterval(() => this.#openSocket(), timely(this.#options.webSocketRetry));
      this.#guard(link);
    }
    if (before !== link.kind) this._emit("connected", link.kind);
  }

  /**
   * Take what came over a link.
   *
   * @param {Link} link
   * @param {string} [text] none where it is but a sign of life
   * @param {string} [id] whose payload it is; a reply has none
   */
  #message(link, text, id) {
    if (link !== this.#link) return;
    this.#heard = now();
    link.count++;
    if (text === undefined) return;
    if (link.send) this.#failures = 0;
    if (id) this.#inForce.get(id)?._deliver(text, this.#options);
    else this.#reply(text);
  }

  /**
   * End a link, or learn that it has ended, and come back.
   *
   * @param {Link} link
   * @param {RealizehitError} error
   * @param {number} [delay] ms after which the server asked to come back; obeyed within bounds
   */
  #lose(link, error, delay) {
    link.close();
    // An attempt to leave the events may fail. Where a stream cannot be had beside the other one, that one ends too.
    if (link !== this.#link && link !== this.#next) return;
    const { status } = error;
    const renewable = status === EXPIRED && typeof this.#options.token === "function";
    if (FOR_GOOD.test(`${status}`) && !renewable) return this.#end(error);
    const wasUp = this.#isUp;
    this.#halt();
    if (wasUp) {
      this.#interrupt();
      if (now() - this.#upAt >= STABLE_AFTER) this.#attempts = this.#sentAway = 0;
    }
    this.#asked = delay !== undefined;
    if (link.send && !this.#asked && !link.count && ++this.#failures > 1 && this.#sse) this.#connect(true);
    else this.#later(delay);
    if (wasUp) this._emit("disconnect", error);
    else if (status !== 400) this._emit("error", error); // 400 is about the patterns, and told to them
  }

  /** @param {string} text */
  #reply(text) {
    let reply;
    try {
      reply = JSON.parse(text);
    } catch {
      return; // no message that this client knows
    }
    if (reply?.evt) return this.#told(reply.evt, reply);
    const expected = this.#replies.get(reply?.id);
    if (!expected) return;
    this.#replies.delete(reply.id);
    if (expected[0] === "auth") expected[1](reply.err && (reply.code ?? ""), reply.err);
    else if (expected[0] === "unsub") this.#forget(expected[1]);
    else this.#answered(expected[1], reply.ret, reply.code, reply.err);
  }

  /**
   * Take what the server tells of subscriptions without having been asked: its broker was away, or it ended them.
   *
   * @param {string} name
   * @param {{ids?: string[], seconds: number, code: string, reason: string}} event with what belongs to its name
   */
  #told(name, { ids, seconds, code, reason }) {
    if (name === "expiring") {
      this._emit(name, seconds);
      // Clients whose tokens end together do not ask together.
      if (typeof this.#options.token === "function" && this.#link) this.#renew(this.#link, seconds * (250 + Math.random() * 250));
    }
    for (const id of Array.isArray(ids) ? ids : []) {
      const subscription = this.#inForce.get(id);
      if (!subscription?.subscribed()) continue;
      if (name === "gap") subscription._gap(seconds);
      else if (name === "unsubscribed") this.#forget(subscription, new RealizehitError(reason, code));
    }
  }

  /**
   * Hold the link to its heartbeat: a connection can be gone without a word.
   *
   * @param {Link} link
   * @param {number} [count] what had come when something was sent that must be answered
   */
  #guard(link, count) {
    const { heartbeat, responseTimeout } = this.#options;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        const answered = count !== link.count;
        if (answered && now() - this.#heard < heartbeat) this.#guard(link);
        else if (answered && link.send) this.#ping(link);
        else this.#lose(link, new RealizehitError("the server is silent"));
      },
      timely(count === undefined ? this.#heard + heartbeat - now() : responseTimeout),
    );
  }

  /** @param {Link} link */
  #ping(link) {
    this.#act("ping");
    this.#guard(link, link.count);
  }

  /** Come back, or look whether the connection is still there: the network or the page has just come back. */
  #wake() {
    const link = this.#link;
    if (this.#isUp && link?.send) this.#ping(link);
    else if (this.#isUp && link) this.#guard(link); // its timer may have slept
    else if (!this.#asked) {
      link?.close();
      this.#connect();
    }
  }

  /** Return a delay in ms, drawn evenly from zero to a bound that doubles. @param {number} attempts */
  #jitter(attempts) {
    const { backoffBase, backoffCap } = this.#options;
    return Math.random() * Math.min(backoffCap, backoffBase * 2 ** attempts);
  }

  /** Be without a link. */
  #halt() {
    this.#link?.close();
    this.#next?.close();
    this.#link = this.#next = undefined;
    this.#isUp = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    for (const reply of this.#replies.values()) if (reply[0] === "unsub") this.#forget(reply[1]);
    this.#replies.clear();
  }

  /** End for good. @param {RealizehitError} [error] why, where it was not asked for */
  #end(error) {
    if (this.#ended) return;
    this.#ended = error ?? new RealizehitError("the client was closed");
    const wasUp = this.#isUp;
    const subscriptions = this.subscriptions;
    this.#halt();
    this.#page.abort();
    this.#wanted.clear();
    if (wasUp) this._emit("disconnect", this.#ended);
    for (const subscription of subscriptions) subscription._finish(error);
    if (error) this._emit("error", error);
  }
}

/**
 * Publish over HTTP.
 *
 *     const { nodes } = await new APIClient("https://example.org/").publish({ kind: "news" }, { title: "hello" });
 */
export class APIClient {
  #url;
  #key;
  /** @type {NonNullable<Options["fetch"]>} */
  #fetch;

  /**
   * @param {string | URL} url the API's address with its prefix.
   * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: in place of the
   *   platform's.
   */
  constructor(url, { key, fetch } = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#key = key;
    this.#fetch = fetch ?? ((url, request) => globalThis.fetch(url, request));
  }

  /**
   * Publish one message.
   *
   * @param {Pattern} pattern
   * @param {any} payload what JSON can hold.
   * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many the broker reached.
   * @throws {RealizehitError} the server refused it; `code` and `status` say why. Where the server was not reached, it is
   *   the error of `fetch`; whether it was published is not known then.
   */
  async publish(pattern, payload) {
    keyOf(pattern);
    if (JSON.stringify(payload) === undefined) throw new TypeError(`the payload is ${typeof payload}`);
    const response = await this.#fetch(this.#url, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(this.#key && { Authorization: `Bearer ${this.#key}` }) },
      body: JSON.stringify({ pattern, payload }),
    });
    if (!response.ok) throw await problem(response);
    return response.json();
  }
}
