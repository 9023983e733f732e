/*! realizehit 0.1.0, MIT; made of realizehit.js, 32ea01361db419f2 */
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __typeError = (msg) => {
  throw TypeError(msg);
};
var __defNormalProp = (obj, key, value) => key in obj ? __defProp(obj, key, { enumerable: true, configurable: true, writable: true, value }) : obj[key] = value;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);
var __publicField = (obj, key, value) => __defNormalProp(obj, typeof key !== "symbol" ? key + "" : key, value);
var __accessCheck = (obj, member, msg) => member.has(obj) || __typeError("Cannot " + msg);
var __privateGet = (obj, member, getter) => (__accessCheck(obj, member, "read from private field"), getter ? getter.call(obj) : member.get(obj));
var __privateAdd = (obj, member, value) => member.has(obj) ? __typeError("Cannot add the same private member more than once") : member instanceof WeakSet ? member.add(obj) : member.set(obj, value);
var __privateSet = (obj, member, value, setter) => (__accessCheck(obj, member, "write to private field"), setter ? setter.call(obj, value) : member.set(obj, value), value);
var __privateMethod = (obj, member, method) => (__accessCheck(obj, member, "access private method"), method);
var __privateWrapper = (obj, member, setter, getter) => ({
  set _(value) {
    __privateSet(obj, member, value, setter);
  },
  get _() {
    return __privateGet(obj, member, getter);
  }
});
var stdin_exports = {};
__export(stdin_exports, {
  APIClient: () => APIClient,
  RealizehitError: () => RealizehitError,
  Subscription: () => Subscription,
  WSClient: () => WSClient
});
module.exports = __toCommonJS(stdin_exports);
var _callbacks, _Emitter_instances, of_fn, _client, _beginning, _readers, _error, _awaySince, _Subscription_instances, read_fn, until_fn, wake_fn, _socket, _closed, _WebSocketConnection_instances, open_fn, _abort, _token, _count, _delay, _failure, _EventStreamConnection_instances, read_fn2, event_fn, confirm_fn, _sse, _backoff, _wanted, _inForce, _turn, _requests, _lastId, _connection, _next, _isOpen, _openedAt, _heardAt, _failures, _hasDelay, _ended, _flush, _timer, _renewal, _token2, _listeners, _WSClient_instances, ask_fn, sendTurn_fn, act_fn, request_fn, forget_fn, renew_fn, connect_fn, connectLater_fn, openStream_fn, replaceStream_fn, retryWebSocket_fn, reply_fn, watch_fn, ping_fn, wake_fn2, reset_fn, end_fn, _url, _key, _fetch;
class Emitter {
  constructor() {
    __privateAdd(this, _Emitter_instances);
    /** @type {Map<keyof Events, Function[]>} */
    __privateAdd(this, _callbacks, /* @__PURE__ */ new Map());
  }
  /**
   * Call `callback` at each such event.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  on(event, callback) {
    __privateGet(this, _callbacks).set(event, [...__privateMethod(this, _Emitter_instances, of_fn).call(this, event), callback]);
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
    const first = (...values) => {
      for (const each of events) this.off(
        /** @type {Name} */
        each,
        first
      );
      callback(...values);
    };
    for (const each of events) this.on(
      /** @type {Name} */
      each,
      first
    );
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
    __privateGet(this, _callbacks).set(event, __privateMethod(this, _Emitter_instances, of_fn).call(this, event).filter((each) => each !== callback));
    return this;
  }
  /**
   * @internal
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {Events[Name]} values
   */
  _emit(event, ...values) {
    const callbacks = __privateMethod(this, _Emitter_instances, of_fn).call(this, event);
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
_callbacks = new WeakMap();
_Emitter_instances = new WeakSet();
/** @param {keyof Events} event */
of_fn = function(event) {
  var _a;
  return (_a = __privateGet(this, _callbacks).get(event)) != null ? _a : [];
};
const MAX_TIMER = 2 ** 31 - 1;
const now = () => performance.now();
let time;
const timeOfArrival = () => time != null ? time : time = (queueMicrotask(() => time = void 0), now());
const callAfter = (call, delay) => setTimeout(call, Math.min(delay > 0 ? delay : 0, MAX_TIMER));
class RealizehitError extends Error {
  /**
   * @param {string} message text for people.
   * @param {string} [code] the server's stable code, for programs; empty if it sent none.
   * @param {number} [status] the HTTP status, or the close code of a WebSocket.
   */
  constructor(message, code = "", status = 0) {
    super(`${message}`.replace(/([?&]token=)[^&\s]+/g, "$1***"));
    __publicField(this, "name", "RealizehitError");
    this.code = code;
    this.status = status;
  }
}
const errorFrom = async (response) => {
  const { code, detail, errors } = Object(await response.json().catch(() => {
  }));
  const error = new RealizehitError(detail != null ? detail : `${response.url} answered ${response.status}`, code, response.status);
  return Object.assign(error, { detail, errors });
};
const patternOf = (channel) => Object.fromEntries(channel.split("|").map((filter) => filter.split(":").map(decodeURIComponent)));
class Subscription extends Emitter {
  /**
   * @internal
   * @param {WSClient} client
   * @param {Pattern} pattern
   * @param {string} key
   * @param {HistoryOptions} options
   */
  constructor(client, pattern, key, { since, last, offsets }) {
    super();
    __privateAdd(this, _Subscription_instances);
    /** Its label on the wire; empty until it was in force for the first time. */
    __publicField(this, "id", "");
    /** @type {SubscriptionState} */
    __publicField(this, "state", "unsubscribed");
    /** How many payloads arrived. */
    __publicField(this, "payloads", 0);
    /** How many gaps there were. */
    __publicField(this, "gaps", 0);
    /** How many payloads a loop that was too slow has lost. */
    __publicField(this, "dropped", 0);
    /** @internal @type {string} equal for equal patterns */
    __publicField(this, "_key");
    /** @internal how often the server was asked since it was last in force */
    __publicField(this, "_attempts", 0);
    /** @internal the id of its last `sub` or `unsub` */
    __publicField(this, "_request", "");
    /** @internal @type {ReturnType<typeof setTimeout> | undefined} until the server must have replied to that */
    __publicField(this, "_timer");
    __privateAdd(this, _client);
    /** @type {HistoryOptions | undefined} what it asks for without a position; undefined if it needs no positions */
    __privateAdd(this, _beginning);
    /** @type {Set<{queue: ReceivedMessage[], wake: Function}>} the loops over messages */
    __privateAdd(this, _readers, /* @__PURE__ */ new Set());
    /** @type {Error | undefined} why it ended, if nobody asked for that */
    __privateAdd(this, _error);
    /** @type {number | undefined} since when messages may be missing */
    __privateAdd(this, _awaySince);
    __privateSet(this, _client, client);
    this.pattern = { ...pattern };
    this._key = key;
    this.position = since;
    if (since || last || offsets) __privateSet(this, _beginning, { last, offsets: true });
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
    var _a;
    __privateGet(this, _client)._join(this);
    const error = this.subscribed() || await __privateMethod(this, _Subscription_instances, until_fn).call(this, "subscribed", "unsubscribed", "error");
    if (!this.subscribed()) throw (_a = error != null ? error : __privateGet(this, _error)) != null ? _a : new RealizehitError("it was unsubscribed");
  }
  /**
   * End the subscription. No payload is delivered any more; those that wait in loops are discarded.
   *
   * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
   */
  async unsubscribe() {
    if (this.subscribed() || this.subscribing()) {
      this._setState("unsubscribing");
      __privateMethod(this, _Subscription_instances, wake_fn).call(this, true);
      __privateGet(this, _client)._leave(this);
    }
    if (!this.unsubscribed()) await __privateMethod(this, _Subscription_instances, until_fn).call(this, "unsubscribed");
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
    const reader = { queue: (
      /** @type {ReceivedMessage[]} */
      []
    ), wake() {
    } };
    __privateGet(this, _readers).add(reader);
    return __privateMethod(this, _Subscription_instances, read_fn).call(this, reader);
  }
  /** @internal @param {SubscriptionState} state */
  _setState(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit(state);
  }
  /** @internal */
  _begin() {
    __privateSet(this, _error, __privateSet(this, _awaySince, void 0));
    this.state = "subscribing";
    queueMicrotask(() => this.subscribing() && this._emit("subscribing"));
  }
  /** @internal Return what it asks for besides its pattern. @returns {HistoryOptions | undefined} */
  _history() {
    return this.position ? { since: this.position } : __privateGet(this, _beginning);
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
    this.position = at && epoch && __privateGet(this, _beginning) && `${epoch}.${isBehind ? oldOffset : offset}`;
    return !isBehind;
  }
  /**
   * @internal
   * @param {string} text
   * @param {string} label of the message: the id, or `<id>@<key>=<value>&…`. The client knows the keys `c`, the channel that the
   *   message was published to, and `o`, its position, or its offset in the epoch of the message before.
   */
  _deliver(text, label) {
    var _a, _b;
    const { parse, maxsize } = __privateGet(this, _client)._options;
    if (!this.subscribed()) return;
    const hasFields = label !== this.id;
    const channel = hasFields && ((_a = /[@&]c=([^&]*)/.exec(label)) == null ? void 0 : _a[1]);
    const at = hasFields ? (_b = /[@&]o=((\w+\.)?\d+)(?![^&])/.exec(label)) == null ? void 0 : _b[1] : void 0;
    if (at && !this._move(at)) return;
    let message;
    try {
      message = { payload: parse(text), text, pattern: channel ? patternOf(channel) : this.pattern, position: at && this.position };
    } catch (error) {
      return this._emit("error", new RealizehitError(`a payload cannot be parsed: ${error}`));
    }
    this.payloads++;
    for (const { queue, wake } of __privateGet(this, _readers)) {
      wake();
      if (queue.push(message) !== maxsize + 1) continue;
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
    const since = (
      /** @type {number} */
      __privateGet(this, _awaySince)
    );
    const mayMiss = since || this.position;
    __privateSet(this, _awaySince, void 0);
    __privateGet(this, _beginning) && __privateSet(this, _beginning, { offsets: true });
    this.id = /** @type {string} */
    ret;
    this._attempts = 0;
    this._move(at, recovered);
    this._setState("subscribed");
    if (mayMiss && this.subscribed()) {
      if (recovered) this._emit("recovered");
      else this._gap((now() - since) / 1e3 || 0);
    }
  }
  /** @internal @param {number} seconds @param {string} [at] where it goes on */
  _gap(seconds, at) {
    if (/\./.test(
      /** @type {string} */
      at
    )) this._move(at);
    this.gaps++;
    this._emit("gap", seconds);
  }
  /** @internal @param {number} since when the last message came that cannot be missing, in ms of `now` */
  _interrupt(since) {
    var _a;
    if (!this.subscribed()) return;
    (_a = __privateGet(this, _awaySince)) != null ? _a : __privateSet(this, _awaySince, since);
    this._setState("subscribing");
  }
  /** @internal @param {Error} [error] */
  _finish(error) {
    __privateSet(this, _error, error);
    this._setState("unsubscribed");
    __privateMethod(this, _Subscription_instances, wake_fn).call(this, !error);
    if (error) this._emit("error", error);
  }
}
_client = new WeakMap();
_beginning = new WeakMap();
_readers = new WeakMap();
_error = new WeakMap();
_awaySince = new WeakMap();
_Subscription_instances = new WeakSet();
read_fn = async function* (reader) {
  try {
    for (; ; ) {
      while (reader.queue.length) yield (
        /** @type {ReceivedMessage} */
        reader.queue.shift()
      );
      if (__privateGet(this, _error)) throw __privateGet(this, _error);
      if (this.unsubscribed() || this.unsubscribing()) return;
      await new Promise((resolve) => reader.wake = resolve);
    }
  } finally {
    __privateGet(this, _readers).delete(reader);
  }
};
/** Wait for the first of some events and return its value. @param {(keyof SubscriptionEvents)[]} names @returns {Promise<any>} */
until_fn = function(...names) {
  return new Promise((resolve) => this.once(
    names,
    /** @type {any} */
    resolve
  ));
};
/** @param {boolean} discard whether the messages that wait are discarded */
wake_fn = function(discard) {
  for (const reader of __privateGet(this, _readers)) {
    if (discard) reader.queue.length = 0;
    reader.wake();
  }
};
const MAX_REQUESTED = 3e5;
const createBackoff = ({ backoffBase, backoffCap }) => {
  let attempts = 0;
  let requests = 0;
  const _jitter = (attempts2) => Math.random() * Math.min(backoffCap, backoffBase * 2 ** attempts2);
  return {
    _jitter,
    /** Return the delay before the next attempt. @param {number} [requested] the delay that the server asked for */
    _next(requested) {
      if (requested == null) return _jitter(attempts++);
      return Math.min(Math.max(requested, requests++ && _jitter(requests - 1)), MAX_REQUESTED);
    },
    /** Begin again: a connection has lasted. */
    _reset() {
      attempts = requests = 0;
    }
  };
};
const EXPIRED = 4501;
const FINAL_STATUS = /^(401|403|4[5-9]\d\d)$/;
const TEMPORARY_CODE = /^(unavailable|rate-limited)$/;
class Connection {
  /** @param {WSClient} client @param {string | URL} url */
  constructor(client, url) {
    /** How many messages, replies and heartbeats came over it. */
    __publicField(this, "_received", 0);
    /** @type {((message: object) => void) | undefined} sends an action; an event stream has no such method */
    __publicField(this, "_send");
    /** @type {Subscription[] | undefined} the subscriptions when an event stream was opened */
    __publicField(this, "_requested");
    /** @type {ReturnType<typeof setTimeout> | undefined} until it must be open; later until an event stream tries a WebSocket */
    __publicField(this, "_timer");
    __publicField(this, "_client");
    __publicField(this, "_url");
    this._client = client;
    this._url = url;
  }
  /** Stop the transport, without an event. It may be called again. */
  _stop() {
  }
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
class WebSocketConnection extends Connection {
  /** @param {WSClient} client */
  constructor(client) {
    super(client, client.url);
    __privateAdd(this, _WebSocketConnection_instances);
    /** @type {SocketLike | undefined} */
    __privateAdd(this, _socket);
    __privateAdd(this, _closed, false);
    this._send = (message) => {
      var _a;
      return (_a = __privateGet(this, _socket)) == null ? void 0 : _a.send(JSON.stringify(message));
    };
    __privateMethod(this, _WebSocketConnection_instances, open_fn).call(this);
  }
  _stop() {
    var _a;
    __privateSet(this, _closed, true);
    (_a = __privateGet(this, _socket)) == null ? void 0 : _a.close(1e3);
  }
}
_socket = new WeakMap();
_closed = new WeakMap();
_WebSocketConnection_instances = new WeakSet();
open_fn = async function() {
  const client = this._client;
  try {
    const token = await client._freshToken();
    if (__privateGet(this, _closed)) return;
    this._failAfter();
    const socket = __privateSet(this, _socket, new client._options.WebSocket(client.url));
    socket.onmessage = ({ data }) => {
      const text = `${data}`;
      const start = text[0] === "{" ? 0 : text.indexOf("?") + 1;
      if (!__privateGet(this, _closed)) client._receive(this, text.slice(start), text.slice(0, start && start - 1));
    };
    socket.onerror = () => this._failAfter(0, "");
    socket.onclose = ({ code, reason }) => {
      const delay = code === 4001 && /^delay=(\d{1,9})$/.exec(reason);
      const text = `the connection to ${client.url} ended: ${code} ${reason}`;
      const error = new RealizehitError(text, code === EXPIRED ? "not-authenticated" : "", code);
      client._lost(this, error, delay ? +delay[1] : void 0);
    };
    await new Promise((resolve) => socket.onopen = resolve);
    if (token) await client._authenticate(this, token);
    if (!__privateGet(this, _closed)) client._opened(this);
  } catch (error) {
    if (error instanceof RealizehitError) {
      this._received++;
      client._lost(this, error);
    } else this._failAfter(0, `: ${error}`);
  }
};
const eventStreamParser = (onEvent, onRetry) => {
  let rest = "";
  const fields = { event: "", data: "", id: "" };
  let endsWithCR = false;
  return (text) => {
    const lines = (endsWithCR ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    endsWithCR = text.endsWith("\r");
    lines[0] = rest + lines[0];
    rest = /** @type {string} */
    lines.pop();
    for (const line of lines) {
      const [, field, value] = (
        /** @type {string[]} */
        /^([^:]*):? ?(.*)/s.exec(line)
      );
      if (!line) {
        if (fields.data) onEvent(fields.event || "message", fields.data.slice(0, -1), fields.id);
        fields.event = fields.data = "";
      } else if (field === "data") fields.data += `${value}
`;
      else if (field === "retry" && /^\d+$/.test(value)) onRetry(+value);
      else if (field !== "id" || !value.includes("\0")) fields[field] = value;
    }
  };
};
const parseObject = (text) => {
  try {
    return Object(JSON.parse(text));
  } catch (e) {
    return {};
  }
};
const MAX_ADDRESS = 7e3;
class EventStreamConnection extends Connection {
  /**
   * @param {WSClient} client
   * @param {URL} address
   * @param {string} [token] a fresh one, to replace a stream whose token ends
   */
  constructor(client, address, token) {
    var _a, _b;
    const url = new URL(address);
    super(client, url);
    __privateAdd(this, _EventStreamConnection_instances);
    __privateAdd(this, _abort, new AbortController());
    __privateAdd(this, _token);
    /** how many of the requested patterns the address has room for */
    __privateAdd(this, _count, 0);
    /** @type {number | undefined} the delay in ms before reconnecting, if the server named one */
    __privateAdd(this, _delay);
    __privateAdd(this, _failure);
    __privateSet(this, _token, token);
    this._requested = client.subscriptions;
    const { searchParams } = url;
    const hasPositions = this._requested.some((each) => each._history());
    for (const each of this._requested) {
      if (url.href.length > MAX_ADDRESS) break;
      const history = each._history();
      searchParams.append("pat", JSON.stringify(each.pattern));
      if (hasPositions) {
        searchParams.append("since", (_a = history == null ? void 0 : history.since) != null ? _a : "");
        searchParams.append(
          "last",
          /** @type {any} */
          (_b = history == null ? void 0 : history.last) != null ? _b : ""
        );
      }
      __privateWrapper(this, _count)._++;
    }
    if (hasPositions) searchParams.append("offsets", "1");
    __privateSet(this, _failure, new RealizehitError(`the connection to ${url} ended`));
    __privateMethod(this, _EventStreamConnection_instances, read_fn2).call(this, url).then(
      () => client._lost(this, __privateGet(this, _failure), __privateGet(this, _delay)),
      (error) => error.status ? client._lost(this, error, __privateGet(this, _delay)) : this._failAfter(0, `: ${error}`)
    );
  }
  _stop() {
    __privateGet(this, _abort).abort();
  }
}
_abort = new WeakMap();
_token = new WeakMap();
_count = new WeakMap();
_delay = new WeakMap();
_failure = new WeakMap();
_EventStreamConnection_instances = new WeakSet();
read_fn2 = async function(url) {
  var _a;
  const client = this._client;
  const { fetch } = client._options;
  const { signal } = __privateGet(this, _abort);
  const token = (_a = __privateGet(this, _token)) != null ? _a : await client._freshToken();
  if (signal.aborted) return;
  this._failAfter();
  const headers = (
    /** @type {HeadersInit | undefined} */
    token && { Authorization: `Bearer ${token}` }
  );
  const send = (credentials) => fetch(url, { cache: "no-store", signal, headers, credentials });
  const response = await send("include").catch(async (error) => {
    const other = await send("omit");
    if (other.ok) throw error;
    return other;
  });
  if (!response.ok) {
    const error = await errorFrom(response);
    const after = +(response.headers.get("retry-after") || NaN);
    if (after >= 0) __privateSet(this, _delay, after * 1e3);
    if (error.status === 400) __privateMethod(this, _EventStreamConnection_instances, confirm_fn).call(this, error);
    throw error;
  }
  const reader = (
    /** @type {ReadableStream} */
    response.body.pipeThrough(new TextDecoderStream()).getReader()
  );
  const parse = eventStreamParser((...event) => __privateMethod(this, _EventStreamConnection_instances, event_fn).call(this, ...event), (ms) => __privateSet(this, _delay, ms));
  for (; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    client._receive(this);
    parse(value);
  }
};
/** @param {string} name @param {string} text @param {string} label */
event_fn = function(name, text, label) {
  var _a;
  if (__privateGet(this, _abort).signal.aborted) return;
  if (name === "message") return this._client._receive(this, text, label);
  const data = parseObject(text);
  if (name === "subscribed") {
    __privateSet(this, _delay, void 0);
    this._client._opened(this, __privateGet(this, _token) || ((_a = this._requested) == null ? void 0 : _a.some((each, at) => {
      var _a2;
      return ((_a2 = data.ids) == null ? void 0 : _a2[at]) && each.subscribing();
    })));
    __privateMethod(this, _EventStreamConnection_instances, confirm_fn).call(this, data);
  } else if (name === "drain" && data.delay >= 0) __privateSet(this, _delay, data.delay);
  else if (name === "unavailable") __privateSet(this, _failure, new RealizehitError(data.detail, data.code, data.status));
  else this._client._handleEvent(name, data);
};
/**
 * Tell each subscription what the server answered.
 *
 * @param {{
 *   ids?: string[], at?: string[], recovered?: boolean[], errors?: {code: string, detail: string}[], code?: string, detail?: string,
 * }} answer lists have null where there is nothing to tell
 */
confirm_fn = function({ ids, at, recovered, errors, ...all }) {
  var _a;
  (_a = this._requested) == null ? void 0 : _a.forEach((each, n) => {
    var _a2;
    const { code, detail } = (_a2 = errors == null ? void 0 : errors[n]) != null ? _a2 : all;
    if (n < __privateGet(this, _count)) this._client._answered(each, { ret: ids == null ? void 0 : ids[n], at: at == null ? void 0 : at[n], recovered: recovered == null ? void 0 : recovered[n], code, err: detail });
    else if (each.subscribing() && !each._attempts++) {
      each._emit("error", new RealizehitError("too-many-subscriptions", "too-many-subscriptions"));
    }
  });
};
const LARGE_NUMBER = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (typeof value === "string" || !LARGE_NUMBER.test(text)) return value;
  let inString = false;
  return JSON.parse(text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  }));
};
const DEFAULT_NUMBERS = {
  maxsize: 1024,
  backoffBase: 500,
  backoffCap: 3e4,
  heartbeat: 6e4,
  responseTimeout: 1e4,
  webSocketRetry: 12e4
};
const resolveOptions = (options) => {
  const resolved = (
    /** @type {Required<Omit<Options, "sse">>} */
    {
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch,
      parse: parseExact,
      ...options
    }
  );
  for (
    const [name, value] of
    /** @type {[keyof typeof DEFAULT_NUMBERS, number][]} */
    Object.entries(DEFAULT_NUMBERS)
  ) {
    if (!(resolved[name] >= 0)) resolved[name] = value;
  }
  return resolved;
};
const isFunction = (value) => typeof value === "function";
const checkToken = (token) => {
  if (typeof token !== "string" || !/^[!-~]+$/.test(token)) {
    throw new TypeError("the token is not visible ASCII");
  }
  return token;
};
const patternKey = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    if (text === void 0) throw new TypeError(`the filter ${key} is ${typeof value}`);
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};
const STABLE_AFTER = 1e4;
class WSClient extends Emitter {
  // removes those of the page
  /**
   * @param {string | URL} url the address of the WebSocket: `wss://host/ws`, or relative to the page.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    var _a, _b;
    super();
    __privateAdd(this, _WSClient_instances);
    // It has at most one connection. Each pattern is subscribed to once. The server's reply names the id that labels the
    // payloads of a pattern, so no payload can come before the reply.
    /** The WebSocket's address. */
    __publicField(this, "url");
    /** @internal */
    __publicField(this, "_options");
    /** @type {URL | undefined} the address of the event stream */
    __privateAdd(this, _sse);
    __privateAdd(this, _backoff);
    /** @type {Map<string, Subscription>} those that have not ended, by their keys */
    __privateAdd(this, _wanted, /* @__PURE__ */ new Map());
    /** @type {Map<string, Subscription>} those that are in force, by their ids */
    __privateAdd(this, _inForce, /* @__PURE__ */ new Map());
    /** @type {Map<Subscription, boolean>} what this turn of the event loop subscribed to (true) or unsubscribed from */
    __privateAdd(this, _turn, /* @__PURE__ */ new Map());
    /** @type {Map<string, (reply?: Reply) => void>} what waits for a reply, by the action's id */
    __privateAdd(this, _requests, /* @__PURE__ */ new Map());
    __privateAdd(this, _lastId, 0);
    /** @type {Connection | undefined} the connection that is open or being opened */
    __privateAdd(this, _connection);
    /** @type {Connection | undefined} an event stream that will replace the one that is open */
    __privateAdd(this, _next);
    __privateAdd(this, _isOpen, false);
    __privateAdd(this, _openedAt, 0);
    __privateAdd(this, _heardAt, 0);
    // when something last came over the connection
    __privateAdd(this, _failures, 0);
    // of WebSockets, since one over which anything came
    __privateAdd(this, _hasDelay, false);
    // whether the server named the delay before reconnecting
    /** @type {RealizehitError | undefined} why it ended for good */
    __privateAdd(this, _ended);
    /** @type {ReturnType<typeof setTimeout> | undefined} until the actions of this turn are sent */
    __privateAdd(this, _flush);
    /** @type {ReturnType<typeof setTimeout> | undefined} until the next attempt to connect, or the next test of the connection */
    __privateAdd(this, _timer);
    /** @type {ReturnType<typeof setTimeout> | undefined} until the token is renewed */
    __privateAdd(this, _renewal);
    /** @type {Promise<string> | undefined} the token that was asked for */
    __privateAdd(this, _token2);
    __privateAdd(this, _listeners, new AbortController());
    const address = new URL(url, (_a = globalThis.location) == null ? void 0 : _a.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(address.protocol)) throw new TypeError(`no WebSocket: ${url}`);
    if (address.pathname === "/") address.pathname = "/ws";
    this.url = address.href;
    this._options = resolveOptions(options);
    __privateSet(this, _backoff, createBackoff(this._options));
    const { sse = "sse" + address.search, token } = options;
    if (token != null && !isFunction(token)) checkToken(token);
    if (sse) __privateSet(this, _sse, new URL(sse, this.url.replace("ws", "http")));
    if (!this._options.WebSocket) {
      if (!sse) throw new TypeError("no WebSocket");
      __privateSet(this, _failures, 2);
    }
    const page = globalThis.document;
    (_b = globalThis.addEventListener) == null ? void 0 : _b.call(globalThis, "online", () => __privateMethod(this, _WSClient_instances, wake_fn2).call(this), __privateGet(this, _listeners));
    page == null ? void 0 : page.addEventListener("visibilitychange", () => page.hidden || __privateMethod(this, _WSClient_instances, wake_fn2).call(this), __privateGet(this, _listeners));
    __privateSet(this, _timer, setTimeout(() => __privateMethod(this, _WSClient_instances, connect_fn).call(this)));
  }
  /** Whether it is connected. */
  get connected() {
    return __privateGet(this, _isOpen);
  }
  /** Whether it is not connected. */
  get disconnected() {
    return !__privateGet(this, _isOpen);
  }
  /** Whether it has ended for good: by `close`, or because the server refuses it. */
  get closed() {
    return !!__privateGet(this, _ended);
  }
  /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
  get transport() {
    var _a;
    return __privateGet(this, _isOpen) ? ((_a = __privateGet(this, _connection)) == null ? void 0 : _a._send) ? "websocket" : "sse" : void 0;
  }
  /** The subscriptions that have not ended. */
  get subscriptions() {
    return [...__privateGet(this, _wanted).values()];
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
  subscribe(pattern, callback, options = (
    /** @type {HistoryOptions} */
    callback != null ? callback : {}
  )) {
    const other = options.since || options.last ? void 0 : this.getSubscription(pattern);
    const subscription = other != null ? other : new Subscription(this, pattern, patternKey(pattern), options);
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
    var _a;
    await ((_a = this.getSubscription(pattern)) == null ? void 0 : _a.unsubscribe());
  }
  /**
   * Return the subscription to a pattern, if there is one.
   *
   * @template [Payload=any] the type of the payloads, for TypeScript.
   * @param {Pattern} pattern
   * @returns {Subscription<Payload> | undefined}
   */
  getSubscription(pattern) {
    return __privateGet(this, _wanted).get(patternKey(pattern));
  }
  /** End all subscriptions and the connection, for good. */
  close() {
    __privateMethod(this, _WSClient_instances, end_fn).call(this);
  }
  /** The same as `close`. */
  disconnect() {
    this.close();
  }
  // ---- subscriptions
  /** @internal @param {Subscription} subscription */
  _join(subscription) {
    const { _key: _key2 } = subscription;
    const other = __privateGet(this, _wanted).get(_key2);
    if (__privateGet(this, _ended)) throw __privateGet(this, _ended);
    if (other === subscription) return;
    if (other || !subscription.unsubscribed()) throw new Error("it is still subscribed");
    __privateGet(this, _wanted).set(_key2, subscription);
    subscription._begin();
    __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription);
  }
  /** @internal @param {Subscription} subscription */
  _leave(subscription) {
    var _a, _b;
    __privateGet(this, _wanted).delete(subscription._key);
    const unsent = __privateGet(this, _turn).delete(subscription);
    if (!unsent && __privateGet(this, _isOpen) && ((_a = __privateGet(this, _connection)) == null ? void 0 : _a._send)) return __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription, false);
    __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
    (_b = __privateGet(this, _flush)) != null ? _b : __privateSet(this, _flush, setTimeout(() => __privateMethod(this, _WSClient_instances, sendTurn_fn).call(this)));
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
    if (__privateGet(this, _wanted).get(subscription._key) !== subscription) return;
    const error = new RealizehitError(err, code);
    if (typeof ret === "string") {
      __privateGet(this, _inForce).set(ret, subscription);
      subscription._confirm(reply);
    } else if (TEMPORARY_CODE.test(
      /** @type {string} */
      code
    )) {
      if (!subscription._attempts) subscription._emit("error", error);
      callAfter(() => {
        if (subscription.subscribing() && __privateGet(this, _wanted).has(subscription._key)) __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription);
      }, __privateGet(this, _backoff)._jitter(subscription._attempts++));
    } else __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription, error);
  }
  // ---- the token
  /**
   * Return a token, from the function if there is one; undefined if the client has no token.
   *
   * @internal
   * @returns {Promise<string> | undefined}
   */
  _freshToken() {
    var _a;
    const { token } = this._options;
    if (token == null) return;
    return (_a = __privateGet(this, _token2)) != null ? _a : __privateSet(this, _token2, (async () => {
      try {
        return checkToken(await (isFunction(token) ? token() : token));
      } catch (error) {
        throw new RealizehitError(`there is no token: ${error}`);
      }
    })().finally(() => __privateSet(this, _token2, void 0)));
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
      __privateMethod(this, _WSClient_instances, request_fn).call(this, connection, { act: "auth", token }, (reply) => {
        if (reply == null ? void 0 : reply.err) reject(new RealizehitError(reply.err, reply.code, TEMPORARY_CODE.test(
          /** @type {string} */
          reply.code
        ) ? 0 : 401));
        else if (reply) resolve();
      });
    });
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
    var _a;
    const before = this.transport;
    if (__privateGet(this, _connection) !== connection) {
      if (__privateGet(this, _next) === connection) __privateSet(this, _next, void 0);
      const replaces = hasNews && !((_a = __privateGet(this, _connection)) == null ? void 0 : _a._send);
      if (replaces) __privateMethod(this, _WSClient_instances, reset_fn).call(this);
      if (!replaces || __privateGet(this, _ended)) return connection._close();
      __privateSet(this, _connection, connection);
    }
    clearTimeout(connection._timer);
    __privateSet(this, _isOpen, true);
    __privateSet(this, _openedAt, __privateSet(this, _heardAt, now()));
    if (connection._send) {
      __privateGet(this, _turn).clear();
      for (const subscription of this.subscriptions) __privateMethod(this, _WSClient_instances, act_fn).call(this, connection, subscription);
      if (__privateGet(this, _wanted).size) __privateMethod(this, _WSClient_instances, watch_fn).call(this, connection, connection._received);
      else __privateMethod(this, _WSClient_instances, ping_fn).call(this, connection);
    } else {
      __privateMethod(this, _WSClient_instances, retryWebSocket_fn).call(this, connection);
      __privateMethod(this, _WSClient_instances, watch_fn).call(this, connection);
    }
    const kind = (
      /** @type {"websocket" | "sse"} */
      this.transport
    );
    if (before !== kind) this._emit("connected", kind);
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
    var _a, _b;
    const isCurrent = connection === __privateGet(this, _connection);
    if (isCurrent) {
      __privateSet(this, _heardAt, timeOfArrival());
      connection._received++;
    }
    if (text == null) return;
    if (isCurrent && connection._send) __privateSet(this, _failures, 0);
    if (!label) __privateMethod(this, _WSClient_instances, reply_fn).call(this, text);
    else if (isCurrent) (_b = (_a = __privateGet(this, _inForce).get(label)) != null ? _a : __privateGet(this, _inForce).get(label.split("@", 1)[0])) == null ? void 0 : _b._deliver(text, label);
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
    if (connection !== __privateGet(this, _connection) && connection !== __privateGet(this, _next)) return;
    const { status } = error;
    if (FINAL_STATUS.test(
      /** @type {any} */
      status
    ) && !(status === EXPIRED && isFunction(this._options.token))) return __privateMethod(this, _WSClient_instances, end_fn).call(this, error);
    const wasOpen = __privateGet(this, _isOpen);
    __privateMethod(this, _WSClient_instances, reset_fn).call(this);
    if (wasOpen && now() - __privateGet(this, _openedAt) >= STABLE_AFTER) __privateGet(this, _backoff)._reset();
    __privateSet(this, _hasDelay, delay != null);
    if (connection._send && !__privateGet(this, _hasDelay) && !connection._received && ++__privateWrapper(this, _failures)._ > 1 && __privateGet(this, _sse)) __privateMethod(this, _WSClient_instances, connect_fn).call(this, true);
    else __privateMethod(this, _WSClient_instances, connectLater_fn).call(this, delay);
    if (wasOpen) this._emit("disconnect", error);
    else if (status !== 400) this._emit("error", error);
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
    if (!ids) this._emit(
      /** @type {"note"} */
      name,
      seconds != null ? seconds : note
    );
    if (name === "expiring" && isFunction(this._options.token)) {
      __privateMethod(this, _WSClient_instances, renew_fn).call(
        this,
        /** @type {Connection} */
        __privateGet(this, _connection),
        seconds * (250 + Math.random() * 250)
      );
    }
    for (const id of [ids].flat()) {
      const subscription = __privateGet(this, _inForce).get(
        /** @type {string} */
        id
      );
      if (!(subscription == null ? void 0 : subscription.subscribed())) continue;
      if (name === "unsubscribed") __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription, new RealizehitError(reason, code));
      else if (name === "gap") subscription._gap(seconds, at == null ? void 0 : at[
        /** @type {string} */
        id
      ]);
    }
  }
}
_sse = new WeakMap();
_backoff = new WeakMap();
_wanted = new WeakMap();
_inForce = new WeakMap();
_turn = new WeakMap();
_requests = new WeakMap();
_lastId = new WeakMap();
_connection = new WeakMap();
_next = new WeakMap();
_isOpen = new WeakMap();
_openedAt = new WeakMap();
_heardAt = new WeakMap();
_failures = new WeakMap();
_hasDelay = new WeakMap();
_ended = new WeakMap();
_flush = new WeakMap();
_timer = new WeakMap();
_renewal = new WeakMap();
_token2 = new WeakMap();
_listeners = new WeakMap();
_WSClient_instances = new WeakSet();
/** Subscribe or unsubscribe with the actions of this turn. @param {Subscription} subscription */
ask_fn = function(subscription, isSub = true) {
  var _a;
  __privateGet(this, _turn).set(subscription, isSub);
  (_a = __privateGet(this, _flush)) != null ? _a : __privateSet(this, _flush, setTimeout(() => __privateMethod(this, _WSClient_instances, sendTurn_fn).call(this)));
};
/** Send the actions that one turn of the event loop asked for. */
sendTurn_fn = function() {
  __privateSet(this, _flush, void 0);
  const turn = [...__privateGet(this, _turn)];
  __privateGet(this, _turn).clear();
  const connection = __privateGet(this, _connection);
  const waiting = [];
  for (const [subscription, isSub] of turn) {
    if (__privateGet(this, _isOpen) && (connection == null ? void 0 : connection._send)) __privateMethod(this, _WSClient_instances, act_fn).call(this, connection, subscription, isSub);
    else if (isSub) waiting.push(subscription);
    else __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
  }
  const isNewTo = (stream) => waiting.some((each) => {
    var _a;
    return !((_a = stream == null ? void 0 : stream._requested) == null ? void 0 : _a.includes(each));
  });
  if (connection == null ? void 0 : connection._send) return;
  if (connection && !__privateGet(this, _wanted).size) this._lost(connection, new RealizehitError("nothing is subscribed", "", 400));
  else if (__privateGet(this, _isOpen)) {
    if (isNewTo(__privateGet(this, _next))) __privateMethod(this, _WSClient_instances, replaceStream_fn).call(this);
  } else if (isNewTo(connection) && __privateGet(this, _failures) > 1 && __privateGet(this, _sse) && !__privateGet(this, _hasDelay)) {
    connection == null ? void 0 : connection._close();
    __privateMethod(this, _WSClient_instances, connect_fn).call(this, true);
  }
};
/** @param {Connection} connection @param {Subscription} subscription */
act_fn = function(connection, subscription, isSub = true) {
  __privateGet(this, _requests).delete(subscription._request);
  clearTimeout(subscription._timer);
  subscription._timer = callAfter(() => {
    if (!isSub) __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
    else subscription._emit("error", new RealizehitError("the server is silent"));
  }, this._options.responseTimeout);
  const action = isSub ? { act: "sub", ...subscription._history() } : { act: "unsub" };
  subscription._request = __privateMethod(this, _WSClient_instances, request_fn).call(this, connection, { ...action, pat: subscription.pattern }, (reply) => {
    clearTimeout(subscription._timer);
    if (!isSub) __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
    else if (reply) this._answered(subscription, reply);
  });
};
/**
 * Send an action and return its id.
 *
 * @param {Connection} connection
 * @param {object} action
 * @param {(reply?: Reply) => void} [onReply] called without a reply if the connection
 *   is lost.
 */
request_fn = function(connection, action, onReply) {
  var _a;
  const id = `${++__privateWrapper(this, _lastId)._}`;
  if (onReply) __privateGet(this, _requests).set(id, onReply);
  (_a = connection._send) == null ? void 0 : _a.call(connection, { id, ...action });
  return id;
};
/**
 * Remove a subscription.
 *
 * @param {Subscription} subscription
 * @param {Error} [error] why, if nobody asked for it
 */
forget_fn = function(subscription, error) {
  if (__privateGet(this, _inForce).get(subscription.id) === subscription) __privateGet(this, _inForce).delete(subscription.id);
  if (error) __privateGet(this, _wanted).delete(subscription._key);
  subscription._finish(error);
};
/**
 * Give a connection a fresh token before the present one ends.
 *
 * @param {Connection} connection
 * @param {number} delay in ms
 * @param {number} [attempts]
 */
renew_fn = function(connection, delay, attempts = 0) {
  clearTimeout(__privateGet(this, _renewal));
  __privateSet(this, _renewal, callAfter(async () => {
    try {
      const token = (
        /** @type {string} */
        await this._freshToken()
      );
      if (connection !== __privateGet(this, _connection)) return;
      if (connection._send) await this._authenticate(connection, token);
      else __privateMethod(this, _WSClient_instances, replaceStream_fn).call(this, token);
    } catch (error) {
      if (connection !== __privateGet(this, _connection)) return;
      this._emit(
        "error",
        /** @type {Error} */
        error
      );
      __privateMethod(this, _WSClient_instances, renew_fn).call(this, connection, __privateGet(this, _backoff)._jitter(attempts), attempts + 1);
    }
  }, delay));
};
// ---- the connection
/** Connect. @param {boolean} overEvents whether to use an event stream */
connect_fn = function(overEvents = !this._options.WebSocket) {
  if (__privateGet(this, _ended)) return;
  clearTimeout(__privateGet(this, _timer));
  __privateSet(this, _hasDelay, false);
  if (!overEvents) __privateSet(this, _connection, new WebSocketConnection(this));
  else if (__privateGet(this, _wanted).size) __privateSet(this, _connection, __privateMethod(this, _WSClient_instances, openStream_fn).call(this));
  else __privateMethod(this, _WSClient_instances, connectLater_fn).call(this);
};
/** Connect after a delay. @param {number} [requested] the delay in ms that the server asked for */
connectLater_fn = function(requested) {
  __privateSet(this, _timer, callAfter(() => __privateMethod(this, _WSClient_instances, connect_fn).call(this), __privateGet(this, _backoff)._next(requested)));
};
/** @param {string} [token] */
openStream_fn = function(token) {
  return new EventStreamConnection(
    this,
    /** @type {URL} */
    __privateGet(this, _sse),
    token
  );
};
/** Open an event stream that replaces the present one as soon as it is open. @param {string} [token] a fresh one */
replaceStream_fn = function(token) {
  var _a;
  (_a = __privateGet(this, _next)) == null ? void 0 : _a._close();
  __privateSet(this, _next, __privateMethod(this, _WSClient_instances, openStream_fn).call(this, token));
};
/** Try a WebSocket now and then, as long as an event stream is open. @param {Connection} connection */
retryWebSocket_fn = function(connection) {
  connection._timer = callAfter(() => {
    new WebSocketConnection(this);
    __privateMethod(this, _WSClient_instances, retryWebSocket_fn).call(this, connection);
  }, this._options.webSocketRetry);
};
/** @param {string} text */
reply_fn = function(text) {
  const reply = parseObject(text);
  if (reply.evt) return this._handleEvent(reply.evt, reply);
  const onReply = __privateGet(this, _requests).get(reply.id);
  __privateGet(this, _requests).delete(reply.id);
  onReply == null ? void 0 : onReply(reply);
};
/**
 * Wait for the next sign of life: a connection can break without an event.
 *
 * @param {Connection} connection
 * @param {number} [received] how much had come when an action was sent that the server must reply to
 */
watch_fn = function(connection, received) {
  const { heartbeat, responseTimeout } = this._options;
  clearTimeout(__privateGet(this, _timer));
  __privateSet(this, _timer, callAfter(
    () => {
      const answered = received !== connection._received;
      if (answered && now() - __privateGet(this, _heardAt) < heartbeat) __privateMethod(this, _WSClient_instances, watch_fn).call(this, connection);
      else if (answered && connection._send) __privateMethod(this, _WSClient_instances, ping_fn).call(this, connection);
      else this._lost(connection, new RealizehitError("the server is silent"));
    },
    received == null ? __privateGet(this, _heardAt) + heartbeat - now() : responseTimeout
  ));
};
/** @param {Connection} connection */
ping_fn = function(connection) {
  __privateMethod(this, _WSClient_instances, request_fn).call(this, connection, { act: "ping" });
  __privateMethod(this, _WSClient_instances, watch_fn).call(this, connection, connection._received);
};
/** Reconnect, or test the connection: the network or the page has just come back. */
wake_fn2 = function() {
  const connection = __privateGet(this, _connection);
  if (__privateGet(this, _isOpen)) {
    if (connection == null ? void 0 : connection._send) __privateMethod(this, _WSClient_instances, ping_fn).call(this, connection);
    else __privateMethod(this, _WSClient_instances, watch_fn).call(
      this,
      /** @type {Connection} */
      connection
    );
  } else if (!__privateGet(this, _hasDelay)) {
    connection == null ? void 0 : connection._close();
    __privateMethod(this, _WSClient_instances, connect_fn).call(this);
  }
};
/** Close the connection, and forget what was expected of it. */
reset_fn = function() {
  var _a, _b;
  (_a = __privateGet(this, _connection)) == null ? void 0 : _a._close();
  (_b = __privateGet(this, _next)) == null ? void 0 : _b._close();
  __privateSet(this, _connection, __privateSet(this, _next, void 0));
  __privateSet(this, _isOpen, false);
  clearTimeout(__privateGet(this, _timer));
  clearTimeout(__privateGet(this, _renewal));
  for (const onReply of __privateGet(this, _requests).values()) onReply();
  __privateGet(this, _requests).clear();
  __privateGet(this, _inForce).clear();
  for (const subscription of this.subscriptions) subscription._interrupt(__privateGet(this, _heardAt));
};
/** End for good. @param {RealizehitError} [error] why, if nobody asked for it */
end_fn = function(error) {
  if (__privateGet(this, _ended)) return;
  __privateSet(this, _ended, error != null ? error : new RealizehitError("the client was closed"));
  const wasOpen = __privateGet(this, _isOpen);
  const subscriptions = this.subscriptions;
  __privateGet(this, _wanted).clear();
  __privateMethod(this, _WSClient_instances, reset_fn).call(this);
  __privateGet(this, _listeners).abort();
  if (wasOpen) this._emit("disconnect", __privateGet(this, _ended));
  for (const subscription of subscriptions) subscription._finish(error);
  if (error) this._emit("error", error);
};
class APIClient {
  /**
   * @param {string | URL} url the API's address with its prefix.
   * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: instead of the
   *   platform's.
   */
  constructor(url, { key, fetch } = {}) {
    __privateAdd(this, _url);
    __privateAdd(this, _key);
    /** @type {NonNullable<Options["fetch"]>} */
    __privateAdd(this, _fetch);
    var _a;
    __privateSet(this, _url, new URL(url, (_a = globalThis.location) == null ? void 0 : _a.href));
    __privateSet(this, _key, key);
    __privateSet(this, _fetch, fetch != null ? fetch : ((url2, request) => globalThis.fetch(url2, request)));
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
    if (JSON.stringify(payload) === void 0) throw new TypeError(`the payload is ${typeof payload}`);
    const response = await __privateGet(this, _fetch).call(this, __privateGet(this, _url), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...__privateGet(this, _key) && { Authorization: `Bearer ${__privateGet(this, _key)}` } },
      body: JSON.stringify({ pattern, payload })
    });
    if (!response.ok) throw await errorFrom(response);
    return response.json();
  }
}
_url = new WeakMap();
_key = new WeakMap();
_fetch = new WeakMap();
