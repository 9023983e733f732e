/*! realizehit 0.1.0, MIT; joined of src/, 10fd4502fb3379c0 */
/**
 * realizehit for JavaScript: `WSClient` subscribes, `APIClient` publishes. It has no dependencies and runs in browsers,
 * Node.js, Deno and Bun.
 *
 * `realizehit.js` and everything in `lib/` is built from `src/`: `npm run build`.
 *
 * @license MIT
 * @module
 */

/**
 * Something that callbacks can be attached to. An exception in a callback does not stop the others: it is thrown again
 * where the platform reports uncaught exceptions. An `error` event without a callback is written to the console.
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
   * Call `callback` at the next such event only, or at the next one of several events.
   *
   * @template {keyof Events} Name
   * @param {Name | Name[]} event
   * @param {(...values: Events[Name]) => void} callback
   */
  once(event, callback) {
    const events = [event].flat();
    /** @param {Events[Name]} values */
    const first = (...values) => {
      for (const each of events) this.off(/** @type {Name} */ (each), first);
      callback(...values);
    };
    for (const each of events) this.on(/** @type {Name} */ (each), first);
    return this;
  }

  /**
   * Remove a callback.
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

const MAX_TIMER = 2 ** 31 - 1; // ms; with a longer delay, every platform fires a timer at once

/** Return the time of a monotonic clock, in ms. */
const now = () => performance.now();

/** @type {number | undefined} */
let time;

/**
 * Return the time at which the first of several messages came that arrived together, in ms of `now`: it is read once for
 * everything that runs before the next microtask. Reading the clock for each message would cost a tenth of its time.
 */
const timeOfArrival = () => (time ??= (queueMicrotask(() => (time = undefined)), now()));

/**
 * Call something after a delay, which may be any number.
 *
 * @param {() => void} call
 * @param {number} delay in ms
 */
const callAfter = (call, delay) => setTimeout(call, Math.min(delay > 0 ? delay : 0, MAX_TIMER));

/** An error that the server reported, or the loss of a connection. */
export class RealizehitError extends Error {
  name = "RealizehitError";

  /**
   * @param {string} message text for people.
   * @param {string} [code] the server's stable code, for programs; empty if it sent none.
   * @param {number} [status] the HTTP status, or the close code of a WebSocket.
   */
  constructor(message, code = "", status = 0) {
    super(`${message}`.replace(/([?&]token=)[^&\s]+/g, "$1***")); // messages contain addresses and end up in logs
    /** The server's stable code, or an empty string. */
    this.code = code;
    /** The HTTP status, or the WebSocket's close code; 0 if there is none. */
    this.status = status;
  }
}

/**
 * Read the error that a response describes, with the errors of the single patterns if it names them.
 *
 * @param {Response} response
 */
const errorFrom = async (response) => {
  const { code, detail, errors } = Object(await response.json().catch(() => {}));
  const error = new RealizehitError(detail ?? `${response.url} answered ${response.status}`, code, response.status);
  return Object.assign(error, { detail, errors });
};

/**
 * @typedef {"subscribing" | "subscribed" | "unsubscribing" | "unsubscribed"} SubscriptionState
 */

/**
 * A published message.
 *
 * @template [Payload=any]
 * @typedef {object} ReceivedMessage
 * @property {Payload} payload
 * @property {string} text the payload as it was published.
 * @property {Pattern} pattern what it was published to. For a subscription with `*` its values are texts; otherwise it is the
 *   subscription's own pattern.
 * @property {string} [position] its position, for a subscription with positions to a pattern that has a history.
 *
 * @typedef {object} HistoryOptions each of them gives the subscription positions, by which it resumes after a lost connection
 * @property {string} [since] a position: the messages after it are delivered first, or a `gap` tells that this is impossible.
 * @property {number} [last] how many of the last messages are delivered first.
 * @property {boolean} [offsets] only new messages, with positions.
 */

/**
 * @template [Payload=any]
 * @typedef {{
 *   payload: [payload: Payload, message: ReceivedMessage<Payload>], subscribing: [], subscribed: [], unsubscribing: [], unsubscribed: [],
 *   recovered: [], gap: [seconds: number], error: [error: Error],
 * }} SubscriptionEvents
 */

/**
 * Return the pattern of a channel, `channel:CNN|kind:news`.
 *
 * @param {string} channel
 * @returns {Pattern}
 * @throws {URIError} it is not percent-encoded.
 */
const patternOf = (channel) =>
  Object.fromEntries(channel.split("|").map((filter) => filter.split(":").map(decodeURIComponent)));

/**
 * A subscription to a pattern. Made by `WSClient.subscribe`.
 *
 * Events: `payload` (payload, message) when something was published; `subscribing`, `subscribed`, `unsubscribing`,
 * `unsubscribed` when the state changed; when it is in force again after the connection was lost, `recovered` if all messages
 * follow, else `gap` (seconds), because messages may be missing; `error` (error) when the server ended it or does not answer it
 * now, or a payload could not be parsed and was skipped.
 *
 * @template [Payload=any] the type of its payloads; only TypeScript uses it, nothing checks it
 * @extends {Emitter<SubscriptionEvents<Payload>>}
 */
export class Subscription extends Emitter {
  /** Its label on the wire; empty until it was in force for the first time. */
  id = "";
  /** @type {SubscriptionState} */
  state = "unsubscribed";
  /** How many payloads arrived. */
  payloads = 0;
  /** How many gaps there were. */
  gaps = 0;
  /** How many payloads a loop that was too slow has lost. */
  dropped = 0;
  /** @internal @type {string} equal for equal patterns */
  _key;
  /** @internal how often the server was asked since it was last in force */
  _attempts = 0;
  /** @internal the id of its last `sub` or `unsub` */
  _request = "";
  /** @internal @type {ReturnType<typeof setTimeout> | undefined} until the server must have replied to that */
  _timer;

  #client;
  /** @type {HistoryOptions | undefined} what it asks for without a position; undefined if it needs no positions */
  #beginning;
  /** @type {Set<{queue: ReceivedMessage[], wake: Function}>} the loops over messages */
  #readers = new Set();
  /** @type {Error | undefined} why it ended, if nobody asked for that */
  #error;
  /** @type {number | undefined} since when messages may be missing */
  #awaySince;

  /**
   * @internal
   * @param {WSClient} client
   * @param {Pattern} pattern
   * @param {string} key
   * @param {HistoryOptions} options
   */
  constructor(client, pattern, key, { since, last, offsets }) {
    super();
    this.#client = client;
    /** The pattern as it was given. */
    this.pattern = { ...pattern };
    this._key = key;
    /** The position of the last message, or where the subscription goes on: `since` of another one continues there. */
    this.position = since;
    if (since || last || offsets) this.#beginning = { last, offsets: true };
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
   * Subscribe, again if it has ended, and wait until that is in force: no message published from then on is missed.
   *
   * @returns {Promise<void>} rejected if the server refuses it or does not reply in time, or if it ends before it is in force.
   *   After a refusal that may not last (`unavailable`, `rate-limited`, no reply) the client goes on asking.
   */
  async subscribe() {
    this.#client._join(this);
    const error = this.subscribed() || (await this.#until("subscribed", "unsubscribed", "error"));
    if (!this.subscribed()) throw error ?? this.#error ?? new RealizehitError("it was unsubscribed");
  }

  /**
   * End the subscription. No payload is delivered any more; those that wait in loops are discarded.
   *
   * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
   */
  async unsubscribe() {
    if (this.subscribed() || this.subscribing()) {
      this._setState("unsubscribing");
      this.#wake(true);
      this.#client._leave(this);
    }
    if (!this.unsubscribed()) await this.#until("unsubscribed");
  }

  /**
   * Iterate over the payloads from now on. Each loop has its own queue, which drops its oldest payload when it is full.
   *
   * @returns {AsyncGenerator<Payload, void, void>} ends with the subscription; throws if the server ended that.
   */
  async *[Symbol.asyncIterator]() {
    for await (const { payload } of this.messages()) yield payload;
  }

  /**
   * Iterate over the messages from now on, as a loop over the subscription does over the payloads.
   *
   * @returns {AsyncGenerator<ReceivedMessage<Payload>, void, void>} ends with the subscription; throws if the server ended that.
   */
  messages() {
    const reader = { queue: /** @type {ReceivedMessage[]} */ ([]), wake() {} };
    this.#readers.add(reader);
    return this.#read(reader);
  }

  /** @param {{queue: ReceivedMessage[], wake: Function}} reader @returns {AsyncGenerator<ReceivedMessage<Payload>, void, void>} */
  async *#read(reader) {
    try {
      for (;;) {
        while (reader.queue.length) yield /** @type {ReceivedMessage} */ (reader.queue.shift());
        if (this.#error) throw this.#error;
        if (this.unsubscribed() || this.unsubscribing()) return;
        await new Promise((resolve) => (reader.wake = resolve));
      }
    } finally {
      this.#readers.delete(reader);
    }
  }

  /** Wait for the first of some events and return its value. @param {(keyof SubscriptionEvents)[]} names @returns {Promise<any>} */
  #until(...names) {
    return new Promise((resolve) => this.once(names, /** @type {any} */ (resolve)));
  }

  /** @param {boolean} discard whether the messages that wait are discarded */
  #wake(discard) {
    for (const reader of this.#readers) {
      if (discard) reader.queue.length = 0;
      reader.wake();
    }
  }

  /** @internal @param {SubscriptionState} state */
  _setState(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit(state);
  }

  /** @internal */
  _begin() {
    this.#error = this.#awaySince = undefined;
    this.state = "subscribing";
    // The caller attaches its callbacks only after this call.
    queueMicrotask(() => this.subscribing() && this._emit("subscribing"));
  }

  /** @internal Return what it asks for besides its pattern. @returns {HistoryOptions | undefined} */
  _history() {
    return this.position ? { since: this.position } : this.#beginning;
  }

  /**
   * Move on to a position and return whether it is after the present one.
   *
   * @internal
   * @param {string | undefined} at
   * @param {boolean} [goesOn] whether the offsets of a new epoch continue those of the old one
   */
  _move(at, goesOn) {
    const [oldOffset, oldEpoch] = `${this.position}`.split(".").reverse();
    const [offset, epoch = oldEpoch] = `${at}`.split(".").reverse();
    const isBehind = (goesOn || epoch === oldEpoch) && +offset <= +oldOffset;
    this.position = at && epoch && this.#beginning && `${epoch}.${isBehind ? oldOffset : offset}`;
    return !isBehind;
  }

  /**
   * @internal
   * @param {string} text
   * @param {string} label of the message: the id, or `<id>@<key>=<value>&…`. The client knows the keys `c`, the channel that the
   *   message was published to, and `o`, its position, or its offset in the epoch of the message before.
   */
  _deliver(text, label) {
    const { parse, maxsize } = this.#client._options;
    if (!this.subscribed()) return;
    const hasFields = label !== this.id; // most labels are only the id
    const channel = hasFields && /[@&]c=([^&]*)/.exec(label)?.[1];
    const at = hasFields ? /[@&]o=((\w+\.)?\d+)(?![^&])/.exec(label)?.[1] : undefined;
    // The stream that was replaced has delivered some messages already.
    if (at && !this._move(at)) return;
    /** @type {ReceivedMessage} */
    let message;
    try {
      message = { payload: parse(text), text, pattern: channel ? patternOf(channel) : this.pattern, position: at && this.position };
    } catch (error) {
      return this._emit("error", new RealizehitError(`a payload cannot be parsed: ${error}`));
    }
    this.payloads++;
    for (const { queue, wake } of this.#readers) {
      wake();
      if (queue.push(message) !== maxsize + 1) continue;
      // Not at once: many payloads may arrive in one turn of the event loop, before any reader can run.
      setTimeout(() => {
        const { length } = queue.splice(0, queue.length - maxsize);
        this.dropped += length;
        if (length) this._gap(0);
      });
    }
    this._emit("payload", message.payload, message);
  }

  /** @internal @param {{ret?: string, at?: string, recovered?: boolean}} reply */
  _confirm({ ret, at, recovered }) {
    const since = /** @type {number} */ (this.#awaySince);
    const mayMiss = since || this.position;
    this.#awaySince = undefined;
    this.#beginning &&= { offsets: true }; // `last` is for the first time
    this.id = /** @type {string} */ (ret);
    this._attempts = 0;
    this._move(at, recovered);
    this._setState("subscribed");
    if (mayMiss && this.subscribed()) {
      if (recovered) this._emit("recovered");
      else this._gap((now() - since) / 1000 || 0); // 0 for a program's own `since`
    }
  }

  /** @internal @param {number} seconds @param {string} [at] where it goes on */
  _gap(seconds, at) {
    if (/\./.test(/** @type {string} */ (at))) this._move(at);
    this.gaps++;
    this._emit("gap", seconds);
  }

  /** @internal @param {number} since when the last message came that cannot be missing, in ms of `now` */
  _interrupt(since) {
    if (!this.subscribed()) return;
    this.#awaySince ??= since;
    this._setState("subscribing");
  }

  /** @internal @param {Error} [error] */
  _finish(error) {
    this.#error = error;
    this._setState("unsubscribed");
    this.#wake(!error);
    if (error) this._emit("error", error);
  }
}

const MAX_REQUESTED = 300_000; // ms that a server may ask a client to stay away, the same in every realizehit client

/**
 * Return random delays before reconnecting ("full jitter"), in ms.
 *
 * @param {{backoffBase: number, backoffCap: number}} options
 */
const createBackoff = ({ backoffBase, backoffCap }) => {
  let attempts = 0;
  let requests = 0; // how often a server named the delay
  /** Return a delay that is drawn evenly from zero to a bound; the bound doubles with each attempt. @param {number} attempts */
  const _jitter = (attempts) => Math.random() * Math.min(backoffCap, backoffBase * 2 ** attempts);
  return {
    _jitter,

    /** Return the delay before the next attempt. @param {number} [requested] the delay that the server asked for */
    _next(requested) {
      if (requested == null) return _jitter(attempts++);
      // If servers ask for no delay one after the other, the client pauses nevertheless.
      return Math.min(Math.max(requested, requests++ && _jitter(requests - 1)), MAX_REQUESTED);
    },

    /** Begin again: a connection has lasted. */
    _reset() {
      attempts = requests = 0;
    },
  };
};

/** The close code after which a client needs a fresh token: its token has ended, or the token's key was replaced. */
const EXPIRED = 4501;
/** HTTP statuses and close codes after which a client does not reconnect. */
const FINAL_STATUS = /^(401|403|4[5-9]\d\d)$/;
/** Error codes of a refusal that may not last: the client asks again. */
const TEMPORARY_CODE = /^(unavailable|rate-limited)$/;

/**
 * A connection to a server. It tells its client `_opened`, `_receive` and `_lost`, and is not used again after `_lost`. The
 * client ignores calls of a connection that it has given up.
 *
 * @internal
 */
class Connection {
  /** How many messages, replies and heartbeats came over it. */
  _received = 0;
  /** @type {((message: object) => void) | undefined} sends an action; an event stream has no such method */
  _send;
  /** @type {Subscription[] | undefined} the subscriptions when an event stream was opened */
  _requested;
  /** @type {ReturnType<typeof setTimeout> | undefined} until it must be open; later until an event stream tries a WebSocket */
  _timer;
  _client;
  _url;

  /** @param {WSClient} client @param {string | URL} url */
  constructor(client, url) {
    this._client = client;
    this._url = url;
  }

  /** Stop the transport, without an event. It may be called again. */
  _stop() {}

  /** End the connection, without an event. */
  _close() {
    clearTimeout(this._timer);
    this._stop();
  }

  /** Lose it after a delay in ms, by default the time for a response, unless it opens before. */
  _failAfter(delay = this._client._options.responseTimeout, why = " in time") {
    clearTimeout(this._timer);
    const error = new RealizehitError(`no connection to ${this._url}${why}`);
    this._timer = callAfter(() => this._client._lost(this, error), delay);
  }
}

/** A connection over a WebSocket. */
class WebSocketConnection extends Connection {
  /** @type {SocketLike | undefined} */
  #socket;
  #closed = false;

  /** @param {WSClient} client */
  constructor(client) {
    super(client, client.url);
    this._send = (/** @type {object} */ message) => this.#socket?.send(JSON.stringify(message));
    this.#open();
  }

  _stop() {
    this.#closed = true;
    this.#socket?.close(1000);
  }

  async #open() {
    const client = this._client;
    try {
      const token = await client._freshToken(); // without a time limit: a function may have to ask a person
      if (this.#closed) return;
      this._failAfter();

      const socket = (this.#socket = new client._options.WebSocket(client.url));
      socket.onmessage = (/** @type {{data: string}} */ { data }) => {
        const text = `${data}`; // a server that sends bytes breaks nothing
        const start = text[0] === "{" ? 0 : text.indexOf("?") + 1; // a reply is an object and has no label
        if (!this.#closed) client._receive(this, text.slice(start), text.slice(0, start && start - 1));
      };
      // A close event follows at once and says more, but not on every platform.
      socket.onerror = () => this._failAfter(0, "");
      socket.onclose = (/** @type {{code: number, reason: string}} */ { code, reason }) => {
        const delay = code === 4001 && /^delay=(\d{1,9})$/.exec(reason);
        const text = `the connection to ${client.url} ended: ${code} ${reason}`;
        const error = new RealizehitError(text, code === EXPIRED ? "not-authenticated" : "", code);
        client._lost(this, error, delay ? +delay[1] : undefined);
      };
      await new Promise((resolve) => (socket.onopen = resolve));
      // Scripts cannot set headers here, and addresses are logged: the token is the first message.
      if (token) await client._authenticate(this, token);
      if (!this.#closed) client._opened(this);
    } catch (error) {
      if (error instanceof RealizehitError) {
        this._received++; // a matter of the token; WebSockets have not failed
        client._lost(this, error);
      } else this._failAfter(0, `: ${error}`);
    }
  }
}

/**
 * Return a function that parses the text of an event stream piece by piece (HTML standard, section 9.2.6).
 *
 * @param {(name: string, data: string, id: string) => void} onEvent called with each event; the default name is `message`.
 * @param {(ms: number) => void} onRetry called with the delay before reconnecting.
 */
const eventStreamParser = (onEvent, onRetry) => {
  let rest = "";
  /** @type {Record<string, string>} */
  const fields = { event: "", data: "", id: "" };
  let endsWithCR = false; // whether the last piece ended with a CR: an LF may follow that belongs to the same line end
  /** @param {string} text */
  return (text) => {
    const lines = (endsWithCR ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    endsWithCR = text.endsWith("\r");
    lines[0] = rest + lines[0]; // the rest has no line end, so it is not searched again
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) {
      const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)/s.exec(line));
      if (!line) {
        if (fields.data) onEvent(fields.event || "message", fields.data.slice(0, -1), fields.id);
        fields.event = fields.data = "";
      } else if (field === "data") fields.data += `${value}\n`;
      else if (field === "retry" && /^\d+$/.test(value)) onRetry(+value);
      else if (field !== "id" || !value.includes("\0")) fields[field] = value;
    }
  };
};

/**
 * Parse what a server sends besides payloads. A text that is no JSON object, which this client does not know, has no members.
 *
 * @param {string} text
 */
const parseObject = (text) => {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
};

const MAX_ADDRESS = 7000; // characters before the last pattern; many proxies accept 8 KiB at most

/**
 * A connection over Server-Sent Events. It reads them with `fetch`, because `EventSource` shows neither why a server refuses
 * nor the heartbeats, sends a token only in the address, and reconnects by its own rules.
 */
class EventStreamConnection extends Connection {
  #abort = new AbortController();
  #token;
  /** how many of the requested patterns the address has room for */
  #count = 0;
  /** @type {number | undefined} the delay in ms before reconnecting, if the server named one */
  #delay;
  #failure;

  /**
   * @param {WSClient} client
   * @param {URL} address
   * @param {string} [token] a fresh one, to replace a stream whose token ends
   */
  constructor(client, address, token) {
    const url = new URL(address);
    super(client, url);
    this.#token = token;
    this._requested = client.subscriptions;
    const { searchParams } = url;
    const hasPositions = this._requested.some((each) => each._history());
    for (const each of this._requested) {
      if (url.href.length > MAX_ADDRESS) break;
      const history = each._history();
      searchParams.append("pat", JSON.stringify(each.pattern));
      if (hasPositions) {
        searchParams.append("since", history?.since ?? "");
        searchParams.append("last", /** @type {any} */ (history?.last ?? ""));
      }
      this.#count++;
    }
    if (hasPositions) searchParams.append("offsets", "1");
    this.#failure = new RealizehitError(`the connection to ${url} ended`);
    this.#read(url).then(
      () => client._lost(this, this.#failure, this.#delay),
      (error) => (error.status ? client._lost(this, error, this.#delay) : this._failAfter(0, `: ${error}`)),
    );
  }

  _stop() {
    this.#abort.abort();
  }

  /** @param {URL} url */
  async #read(url) {
    const client = this._client;
    const { fetch } = client._options; // it cannot be called as a method of another object
    const { signal } = this.#abort;
    const token = this.#token ?? (await client._freshToken());
    if (signal.aborted) return;
    this._failAfter();
    const headers = /** @type {HeadersInit | undefined} */ (token && { Authorization: `Bearer ${token}` });
    /** @param {RequestCredentials} credentials */
    const send = (credentials) => fetch(url, { cache: "no-store", signal, headers, credentials });
    // Cookies identify the client, as with a WebSocket. A page that may not use the server cannot read the response then;
    // without cookies it can, and the response says why.
    const response = await send("include").catch(async (error) => {
      const other = await send("omit");
      if (other.ok) throw error;
      return other;
    });
    if (!response.ok) {
      const error = await errorFrom(response);
      const after = +(response.headers.get("retry-after") || NaN); // seconds; a date would need a correct clock
      if (after >= 0) this.#delay = after * 1000;
      if (error.status === 400) this.#confirm(error);
      throw error;
    }
    const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
    const parse = eventStreamParser((...event) => this.#event(...event), (ms) => (this.#delay = ms));
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      client._receive(this); // everything that comes, heartbeats included, shows that the server is there
      parse(value);
    }
  }

  /** @param {string} name @param {string} text @param {string} label */
  #event(name, text, label) {
    if (this.#abort.signal.aborted) return;
    if (name === "message") return this._client._receive(this, text, label);
    const data = parseObject(text);
    if (name === "subscribed") {
      this.#delay = undefined;
      this._client._opened(this, this.#token || this._requested?.some((each, at) => data.ids?.[at] && each.subscribing()));
      this.#confirm(data);
    } else if (name === "drain" && data.delay >= 0) this.#delay = data.delay;
    else if (name === "unavailable") this.#failure = new RealizehitError(data.detail, data.code, data.status);
    else this._client._handleEvent(name, data);
  }

  /**
   * Tell each subscription what the server answered.
   *
   * @param {{
   *   ids?: string[], at?: string[], recovered?: boolean[], errors?: {code: string, detail: string}[], code?: string, detail?: string,
   * }} answer lists have null where there is nothing to tell
   */
  #confirm({ ids, at, recovered, errors, ...all }) {
    this._requested?.forEach((each, n) => {
      const { code, detail } = errors?.[n] ?? all;
      if (n < this.#count) this._client._answered(each, { ret: ids?.[n], at: at?.[n], recovered: recovered?.[n], code, err: detail });
      else if (each.subscribing() && !each._attempts++) {
        each._emit("error", new RealizehitError("too-many-subscriptions", "too-many-subscriptions"));
      }
    });
  }
}

// Finds out without parsing whether a text may contain a number that a double cannot represent: an integer of 16 digits
// or more, or an exponent of three. It also matches some strings.
const LARGE_NUMBER = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;

/**
 * Parse a JSON text. Each number that a double cannot represent becomes a string of its digits: integers beyond
 * `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`.
 *
 * @param {string} text
 * @returns {any}
 * @throws {SyntaxError} the text is not JSON.
 */
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (typeof value === "string" || !LARGE_NUMBER.test(text)) return value;
  let inString = false;
  // One escape, quote or number at a time, without recursion: the text may be long and deep.
  return JSON.parse(text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  }));
};

/**
 * @typedef {object} SocketLike the part of a WebSocket that the client uses
 * @property {(text: string) => void} send
 * @property {(code: number) => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 * @property {any} onerror
 *
 * @typedef {object} Options times are in milliseconds
 * @property {new (url: string) => SocketLike} [WebSocket] instead of the platform's; Node.js before 22 has none.
 * @property {(url: URL, request: RequestInit) => Promise<Response>} [fetch] instead of the platform's.
 * @property {string | URL | false} [sse] the address of the event stream, by default `sse` beside the WebSocket's address;
 *   false to use WebSockets only.
 * @property {(text: string) => any} [parse] makes a payload of its JSON text. The default is `JSON.parse`, except that
 *   integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`, become strings of their digits.
 * @property {string | (() => string | Promise<string>)} [token] proves to the server who the client is. A function is
 *   called for each connection, before its token ends, and after it has ended; it returns a fresh token each time.
 * @property {number} [maxsize] how many payloads may wait in a loop, 1024.
 * @property {number} [backoffBase] the first bound of the delay before reconnecting, 500.
 * @property {number} [backoffCap] the last bound of that delay, 30000.
 * @property {number} [heartbeat] silence after which a ping is sent, 60000.
 * @property {number} [responseTimeout] for connecting, and for the reply to a ping, 10000.
 * @property {number} [webSocketRetry] between attempts to change from the event stream to a WebSocket, 120000.
 */

const DEFAULT_NUMBERS = {
  maxsize: 1024, backoffBase: 500, backoffCap: 30_000, heartbeat: 60_000, responseTimeout: 10_000, webSocketRetry: 120_000,
};

/**
 * Fill in the defaults, also for numbers that are given as undefined or are not numbers.
 *
 * @param {Options} options
 */
const resolveOptions = (options) => {
  const resolved = /** @type {Required<Omit<Options, "sse">>} */ ({
     WebSocket: globalThis.WebSocket, fetch: globalThis.fetch, parse: parseExact, ...options,
  });
  for (const [name, value] of /** @type {[keyof typeof DEFAULT_NUMBERS, number][]} */ (Object.entries(DEFAULT_NUMBERS))) {
    if (!(resolved[name] >= 0)) resolved[name] = value;
  }
  return resolved;
};

/** @param {unknown} value @returns {value is Function} */
const isFunction = (value) => typeof value === "function";

/**
 * Return a token that a header can carry.
 *
 * @param {unknown} token
 * @throws {TypeError} it is something else; the message does not contain it.
 */
const checkToken = (token) => {
  if (typeof token !== "string" || !/^[!-~]+$/.test(token)) {
    throw new TypeError("the token is not visible ASCII");
  }
  return token;
};

/** @typedef {Record<string, string | number | boolean>} Pattern a set of filters, such as `{kind: "news"}` */

/**
 * Return a key that is equal for two spellings of one pattern, such as `{page: 3}` and `{page: "3"}`.
 *
 * @param {Pattern} pattern
 * @throws {TypeError} it is not an object, or JSON would leave out one of its filters.
 */
const patternKey = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    // JSON leaves such a filter out, which makes the pattern a wider one.
    if (text === undefined) throw new TypeError(`the filter ${key} is ${typeof value}`);
    // Numbers and booleans are equal to their texts. The server refuses other types.
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};

/** @typedef {{ret?: string, at?: string, recovered?: boolean, err?: string, code?: string}} Reply to an action */

const STABLE_AFTER = 10_000; // ms after which a connection counts as a success, the same in every realizehit client

/**
 * Subscribe over a WebSocket, or over Server-Sent Events if WebSockets do not get through, and stay subscribed.
 *
 *     const client = new WSClient("wss://example.org/ws");
 *     client.subscribe({ kind: "news" }).on("payload", (payload) => console.log(payload));
 *
 * It connects by itself, and reconnects after a random delay (full jitter) or the delay that the server asked for. It does not
 * reconnect after a close code from 4500 to 4999.
 *
 * Events: `connected` (kind) each time it has connected; `disconnect` (error) when the connection is lost; `expiring`
 * (seconds) when its token ends soon; `note` (any) when an operator sent one; `error` (error) when an attempt failed, or the server refuses the client.
 *
 * @extends {Emitter<{
 *   connected: [kind: "websocket" | "sse"], disconnect: [error: RealizehitError], expiring: [seconds: number], note: [note: any], error: [error: Error],
 * }>}
 */
export class WSClient extends Emitter {
  // It has at most one connection. Each pattern is subscribed to once. The server's reply names the id that labels the
  // payloads of a pattern, so no payload can come before the reply.

  /** The WebSocket's address. */
  url;
  /** @internal */
  _options;
  /** @type {URL | undefined} the address of the event stream */
  #sse;
  #backoff;
  /** @type {Map<string, Subscription>} those that have not ended, by their keys */
  #wanted = new Map();
  /** @type {Map<string, Subscription>} those that are in force, by their ids */
  #inForce = new Map();
  /** @type {Map<Subscription, boolean>} what this turn of the event loop subscribed to (true) or unsubscribed from */
  #turn = new Map();
  /** @type {Map<string, (reply?: Reply) => void>} what waits for a reply, by the action's id */
  #requests = new Map();
  #lastId = 0;

  /** @type {Connection | undefined} the connection that is open or being opened */
  #connection;
  /** @type {Connection | undefined} an event stream that will replace the one that is open */
  #next;
  #isOpen = false;
  #openedAt = 0;
  #heardAt = 0; // when something last came over the connection
  #failures = 0; // of WebSockets, since one over which anything came
  #hasDelay = false; // whether the server named the delay before reconnecting
  /** @type {RealizehitError | undefined} why it ended for good */
  #ended;

  /** @type {ReturnType<typeof setTimeout> | undefined} until the actions of this turn are sent */
  #flush;
  /** @type {ReturnType<typeof setTimeout> | undefined} until the next attempt to connect, or the next test of the connection */
  #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} until the token is renewed */
  #renewal;
  /** @type {Promise<string> | undefined} the token that was asked for */
  #token;
  #listeners = new AbortController(); // removes those of the page

  /**
   * @param {string | URL} url the address of the WebSocket: `wss://host/ws`, or relative to the page.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    super();
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(address.protocol)) throw new TypeError(`no WebSocket: ${url}`);
    if (address.pathname === "/") address.pathname = "/ws";
    this.url = address.href;
    this._options = resolveOptions(options);
    this.#backoff = createBackoff(this._options);
    const { sse = "sse" + address.search, token } = options;
    if (token != null && !isFunction(token)) checkToken(token);
    if (sse) this.#sse = new URL(sse, this.url.replace("ws", "http"));
    if (!this._options.WebSocket) {
      if (!sse) throw new TypeError("no WebSocket");
      this.#failures = 2;
    }
    const page = globalThis.document;
    // The controller itself has the `signal` that the options of a listener may name.
    globalThis.addEventListener?.("online", () => this.#wake(), this.#listeners);
    page?.addEventListener("visibilitychange", () => page.hidden || this.#wake(), this.#listeners);
    // What this turn of the event loop subscribes to is sent as soon as the connection is open.
    this.#timer = setTimeout(() => this.#connect());
  }

  /** Whether it is connected. */
  get connected() {
    return this.#isOpen;
  }

  /** Whether it is not connected. */
  get disconnected() {
    return !this.#isOpen;
  }

  /** Whether it has ended for good: by `close`, or because the server refuses it. */
  get closed() {
    return !!this.#ended;
  }

  /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
  get transport() {
    return this.#isOpen ? (this.#connection?._send ? "websocket" : "sse") : undefined;
  }

  /** The subscriptions that have not ended. */
  get subscriptions() {
    return [...this.#wanted.values()];
  }

  /**
   * Subscribe to a pattern. The value `*` leaves a filter open, and the filter `"*": "*"` allows further filters. A second call
   * with the same pattern returns the same subscription.
   *
   * @template [Payload=any] the type of the payloads, for TypeScript: `subscribe<News>({ kind: "news" })`. Nothing checks it.
   * @param {Pattern} pattern
   * @param {((payload: Payload, message: ReceivedMessage<Payload>) => void) | HistoryOptions} [callback] for its `payload` event;
   *   or the options.
   * @param {HistoryOptions} [options] where it begins, and whether it resumes after a lost connection.
   * @returns {Subscription<Payload>}
   * @throws {Error} there is a subscription to the pattern already, and the options name another beginning.
   */
  subscribe(pattern, callback, options = /** @type {HistoryOptions} */ (callback ?? {})) {
    const other = options.since || options.last ? undefined : this.getSubscription(pattern);
    const subscription = other ?? new Subscription(this, pattern, patternKey(pattern), options);
    if (isFunction(callback)) subscription.on("payload", callback);
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
   * @template [Payload=any] the type of the payloads, for TypeScript.
   * @param {Pattern} pattern
   * @returns {Subscription<Payload> | undefined}
   */
  getSubscription(pattern) {
    return this.#wanted.get(patternKey(pattern));
  }

  /** End all subscriptions and the connection, for good. */
  close() {
    this.#end();
  }

  /** The same as `close`. */
  disconnect() {
    this.close();
  }

  // ---- subscriptions

  /** @internal @param {Subscription} subscription */
  _join(subscription) {
    const { _key } = subscription;
    const other = this.#wanted.get(_key);
    if (this.#ended) throw this.#ended;
    if (other === subscription) return;
    if (other || !subscription.unsubscribed()) throw new Error("it is still subscribed");
    this.#wanted.set(_key, subscription);
    subscription._begin();
    this.#ask(subscription);
  }

  /** @internal @param {Subscription} subscription */
  _leave(subscription) {
    this.#wanted.delete(subscription._key);
    const unsent = this.#turn.delete(subscription);
    if (!unsent && this.#isOpen && this.#connection?._send) return this.#ask(subscription, false);
    this.#forget(subscription);
    this.#flush ??= setTimeout(() => this.#sendTurn());
  }

  /** Subscribe or unsubscribe with the actions of this turn. @param {Subscription} subscription */
  #ask(subscription, isSub = true) {
    this.#turn.set(subscription, isSub);
    this.#flush ??= setTimeout(() => this.#sendTurn());
  }

  /** Send the actions that one turn of the event loop asked for. */
  #sendTurn() {
    this.#flush = undefined;
    const turn = [...this.#turn];
    this.#turn.clear();
    const connection = this.#connection;
    /** @type {Subscription[]} */
    const waiting = [];
    for (const [subscription, isSub] of turn) {
      if (this.#isOpen && connection?._send) this.#act(connection, subscription, isSub);
      else if (isSub) waiting.push(subscription);
      else this.#forget(subscription);
    }
    const isNewTo = (/** @type {Connection | undefined} */ stream) => waiting.some((each) => !stream?._requested?.includes(each));
    if (connection?._send) return; // when the WebSocket is open, it asks for everything
    if (connection && !this.#wanted.size) this._lost(connection, new RealizehitError("nothing is subscribed", "", 400));
    else if (this.#isOpen) {
      // The patterns of an event stream cannot be changed: another stream replaces it as soon as that is open.
      if (isNewTo(this.#next)) this.#replaceStream();
    } else if (isNewTo(connection) && this.#failures > 1 && this.#sse && !this.#hasDelay) {
      connection?._close();
      this.#connect(true);
    }
  }

  /** @param {Connection} connection @param {Subscription} subscription */
  #act(connection, subscription, isSub = true) {
    this.#requests.delete(subscription._request); // the server does not reply to a `sub` that an `unsub` overtook
    clearTimeout(subscription._timer);
    subscription._timer = callAfter(() => {
      if (!isSub) this.#forget(subscription);
      else subscription._emit("error", new RealizehitError("the server is silent")); // a late reply is still valid
    }, this._options.responseTimeout);
    const action = isSub ? { act: "sub", ...subscription._history() } : { act: "unsub" };
    subscription._request = this.#request(connection, { ...action, pat: subscription.pattern }, (reply) => {
      clearTimeout(subscription._timer);
      if (!isSub) this.#forget(subscription);
      else if (reply) this._answered(subscription, reply);
    });
  }

  /**
   * Send an action and return its id.
   *
   * @param {Connection} connection
   * @param {object} action
   * @param {(reply?: Reply) => void} [onReply] called without a reply if the connection
   *   is lost.
   */
  #request(connection, action, onReply) {
    const id = `${++this.#lastId}`;
    if (onReply) this.#requests.set(id, onReply);
    connection._send?.({ id, ...action });
    return id;
  }

  /**
   * Take the reply to a `sub`.
   *
   * @internal
   * @param {Subscription} subscription
   * @param {Reply} reply
   */
  _answered(subscription, reply) {
    const { ret, code, err = "no id" } = reply;
    if (this.#wanted.get(subscription._key) !== subscription) return; // it has ended
    const error = new RealizehitError(err, code);
    if (typeof ret === "string") {
      this.#inForce.set(ret, subscription);
      subscription._confirm(reply);
    } else if (TEMPORARY_CODE.test(/** @type {string} */ (code))) {
      if (!subscription._attempts) subscription._emit("error", error);
      callAfter(() => {
        if (subscription.subscribing() && this.#wanted.has(subscription._key)) this.#ask(subscription);
      }, this.#backoff._jitter(subscription._attempts++));
    } else this.#forget(subscription, error);
  }

  /**
   * Remove a subscription.
   *
   * @param {Subscription} subscription
   * @param {Error} [error] why, if nobody asked for it
   */
  #forget(subscription, error) {
    if (this.#inForce.get(subscription.id) === subscription) this.#inForce.delete(subscription.id);
    if (error) this.#wanted.delete(subscription._key);
    subscription._finish(error);
  }

  // ---- the token

  /**
   * Return a token, from the function if there is one; undefined if the client has no token.
   *
   * @internal
   * @returns {Promise<string> | undefined}
   */
  _freshToken() {
    const { token } = this._options;
    if (token == null) return;
    return (this.#token ??= (async () => {
      try {
        return checkToken(await (isFunction(token) ? token() : token));
      } catch (error) {
        throw new RealizehitError(`there is no token: ${error}`);
      }
    })().finally(() => (this.#token = undefined)));
  }

  /**
   * Give a connection a fresh token before the present one ends.
   *
   * @param {Connection} connection
   * @param {number} delay in ms
   * @param {number} [attempts]
   */
  #renew(connection, delay, attempts = 0) {
    clearTimeout(this.#renewal);
    this.#renewal = callAfter(async () => {
      try {
        const token = /** @type {string} */ (await this._freshToken());
        if (connection !== this.#connection) return;
        if (connection._send) await this._authenticate(connection, token);
        else this.#replaceStream(token); // a stream keeps the token that it was opened with
      } catch (error) {
        if (connection !== this.#connection) return;
        this._emit("error", /** @type {Error} */ (error));
        this.#renew(connection, this.#backoff._jitter(attempts), attempts + 1);
      }
    }, delay);
  }

  /**
   * Send a token and wait for the reply.
   *
   * @internal
   * @param {Connection} connection
   * @param {string} token
   * @returns {Promise<void>}
   */
  _authenticate(connection, token) {
    return new Promise((resolve, reject) => {
      this.#request(connection, { act: "auth", token }, (reply) => {
        if (reply?.err) reject(new RealizehitError(reply.err, reply.code, TEMPORARY_CODE.test(/** @type {string} */ (reply.code)) ? 0 : 401));
        else if (reply) resolve();
      });
    });
  }

  // ---- the connection

  /** Connect. @param {boolean} overEvents whether to use an event stream */
  #connect(overEvents = !this._options.WebSocket) {
    if (this.#ended) return; // by a callback, a moment ago
    clearTimeout(this.#timer);
    this.#hasDelay = false;
    if (!overEvents) this.#connection = new WebSocketConnection(this);
    else if (this.#wanted.size) this.#connection = this.#openStream();
    else this.#connectLater(); // there is nothing to ask for
  }

  /** Connect after a delay. @param {number} [requested] the delay in ms that the server asked for */
  #connectLater(requested) {
    this.#timer = callAfter(() => this.#connect(), this.#backoff._next(requested));
  }

  /** @param {string} [token] */
  #openStream(token) {
    return new EventStreamConnection(this, /** @type {URL} */ (this.#sse), token);
  }

  /** Open an event stream that replaces the present one as soon as it is open. @param {string} [token] a fresh one */
  #replaceStream(token) {
    this.#next?._close();
    this.#next = this.#openStream(token);
  }

  /**
   * Begin to use a connection.
   *
   * @internal
   * @param {Connection} connection
   * @param {unknown} [hasNews] whether it brings something that the present one does not have: to replace an event stream for
   *   nothing would cost a gap
   */
  _opened(connection, hasNews = true) {
    const before = this.transport;
    if (this.#connection !== connection) {
      if (this.#next === connection) this.#next = undefined;
      const replaces = hasNews && !this.#connection?._send;
      if (replaces) this.#reset(); // callbacks may end the client
      if (!replaces || this.#ended) return connection._close();
      this.#connection = connection;
    }
    clearTimeout(connection._timer);
    this.#isOpen = true;
    this.#openedAt = this.#heardAt = now();
    if (connection._send) {
      this.#turn.clear();
      for (const subscription of this.subscriptions) this.#act(connection, subscription);
      if (this.#wanted.size) this.#watch(connection, connection._received);
      else this.#ping(connection); // so that something comes back
    } else {
      this.#retryWebSocket(connection);
      this.#watch(connection);
    }
    const kind = /** @type {"websocket" | "sse"} */ (this.transport);
    if (before !== kind) this._emit("connected", kind);
  }

  /** Try a WebSocket now and then, as long as an event stream is open. @param {Connection} connection */
  #retryWebSocket(connection) {
    connection._timer = callAfter(() => {
      new WebSocketConnection(this);
      this.#retryWebSocket(connection);
    }, this._options.webSocketRetry);
  }

  /**
   * Take what came over a connection.
   *
   * @internal
   * @param {Connection} connection
   * @param {string} [text] undefined for a sign of life
   * @param {string} [label] of a payload: `<id>` or `<id>@<key>=<value>&…`; a reply has no label
   */
  _receive(connection, text, label) {
    const isCurrent = connection === this.#connection;
    if (isCurrent) {
      this.#heardAt = timeOfArrival();
      connection._received++;
    }
    if (text == null) return;
    if (isCurrent && connection._send) this.#failures = 0;
    if (!label) this.#reply(text); // also over a WebSocket that is being opened beside an event stream
    else if (isCurrent) (this.#inForce.get(label) ?? this.#inForce.get(label.split("@", 1)[0]))?._deliver(text, label);
  }

  /**
   * End a connection, or learn that it has ended, and reconnect.
   *
   * @internal
   * @param {Connection} connection
   * @param {RealizehitError} error
   * @param {number} [delay] ms after which the server asked to reconnect
   */
  _lost(connection, error, delay) {
    connection._close();
    // An attempt to replace an event stream by a WebSocket may fail. If a second event stream fails, the first one ends too.
    if (connection !== this.#connection && connection !== this.#next) return;
    const { status } = error;
    // A function renews a token that has ended.
    if (FINAL_STATUS.test(/** @type {any} */ (status)) && !(status === EXPIRED && isFunction(this._options.token))) return this.#end(error);
    const wasOpen = this.#isOpen;
    this.#reset();
    if (wasOpen && now() - this.#openedAt >= STABLE_AFTER) this.#backoff._reset();
    this.#hasDelay = delay != null;
    if (connection._send && !this.#hasDelay && !connection._received && ++this.#failures > 1 && this.#sse) this.#connect(true);
    else this.#connectLater(delay);
    if (wasOpen) this._emit("disconnect", error);
    else if (status !== 400) this._emit("error", error); // 400 is about the patterns; the subscriptions report it
  }

  /** @param {string} text */
  #reply(text) {
    const reply = parseObject(text);
    if (reply.evt) return this._handleEvent(reply.evt, reply);
    const onReply = this.#requests.get(reply.id);
    this.#requests.delete(reply.id);
    onReply?.(reply);
  }

  /**
   * Take an event of the server: a token ends soon, an operator sent a note, messages may be missing, subscriptions have ended.
   *
   * @internal
   * @param {string} name
   * @param {{ids?: string[], seconds: number, at?: Record<string, string>, code: string, reason: string, note?: any}} event the fields that
   *   belong to its name
   */
  _handleEvent(name, { ids, seconds, at, code, reason, note }) {
    // What names no subscription is told as it is, under the name that the server gives it.
    if (!ids) this._emit(/** @type {"note"} */ (name), seconds ?? note);
    if (name === "expiring" && isFunction(this._options.token)) {
      // A random delay, so that clients whose tokens end together do not renew them together.
      this.#renew(/** @type {Connection} */ (this.#connection), seconds * (250 + Math.random() * 250));
    }
    for (const id of [ids].flat()) {
      const subscription = this.#inForce.get(/** @type {string} */ (id));
      if (!subscription?.subscribed()) continue;
      if (name === "unsubscribed") this.#forget(subscription, new RealizehitError(reason, code));
      else if (name === "gap") subscription._gap(seconds, at?.[/** @type {string} */ (id)]);
    }
  }

  /**
   * Wait for the next sign of life: a connection can break without an event.
   *
   * @param {Connection} connection
   * @param {number} [received] how much had come when an action was sent that the server must reply to
   */
  #watch(connection, received) {
    const { heartbeat, responseTimeout } = this._options;
    clearTimeout(this.#timer);
    this.#timer = callAfter(
      () => {
        const answered = received !== connection._received;
        if (answered && now() - this.#heardAt < heartbeat) this.#watch(connection);
        else if (answered && connection._send) this.#ping(connection);
        else this._lost(connection, new RealizehitError("the server is silent"));
      },
      received == null ? this.#heardAt + heartbeat - now() : responseTimeout,
    );
  }

  /** @param {Connection} connection */
  #ping(connection) {
    this.#request(connection, { act: "ping" });
    this.#watch(connection, connection._received);
  }

  /** Reconnect, or test the connection: the network or the page has just come back. */
  #wake() {
    const connection = this.#connection;
    if (this.#isOpen) {
      if (connection?._send) this.#ping(connection);
      else this.#watch(/** @type {Connection} */ (connection)); // its timer may have been suspended
    } else if (!this.#hasDelay) {
      connection?._close();
      this.#connect();
    }
  }

  /** Close the connection, and forget what was expected of it. */
  #reset() {
    this.#connection?._close();
    this.#next?._close();
    this.#connection = this.#next = undefined;
    this.#isOpen = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    for (const onReply of this.#requests.values()) onReply();
    this.#requests.clear();
    // No subscription is in force any more: messages after the last sign of life may be missing.
    this.#inForce.clear();
    for (const subscription of this.subscriptions) subscription._interrupt(this.#heardAt);
  }

  /** End for good. @param {RealizehitError} [error] why, if nobody asked for it */
  #end(error) {
    if (this.#ended) return;
    this.#ended = error ?? new RealizehitError("the client was closed");
    const wasOpen = this.#isOpen;
    const subscriptions = this.subscriptions;
    this.#wanted.clear();
    this.#reset();
    this.#listeners.abort();
    if (wasOpen) this._emit("disconnect", this.#ended);
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
   * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: instead of the
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
   * @param {any} payload a value that JSON can represent.
   * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many nodes the broker reached.
   * @throws {RealizehitError} the server refused it; `code` and `status` say why. If the server was not reached, the error is
   *   the one of `fetch`; it is then unknown whether the message was published.
   */
  async publish(pattern, payload) {
    patternKey(pattern);
    if (JSON.stringify(payload) === undefined) throw new TypeError(`the payload is ${typeof payload}`);
    const response = await this.#fetch(this.#url, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(this.#key && { Authorization: `Bearer ${this.#key}` }) },
      body: JSON.stringify({ pattern, payload }),
    });
    if (!response.ok) throw await errorFrom(response);
    return response.json();
  }
}
