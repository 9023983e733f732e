/*! realizehit 0.1.0, MIT; made of realizehit.js, 057baf94b59dec42 */
var __defProp = Object.defineProperty;
var __typeError = (msg) => {
  throw TypeError(msg);
};
var __defNormalProp = (obj, key, value) => key in obj ? __defProp(obj, key, { enumerable: true, configurable: true, writable: true, value }) : obj[key] = value;
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
var _callbacks, _Emitter_instances, of_fn, _client, _readers, _error, _awaySince, _Subscription_instances, until_fn, wake_fn, _options, _sse, _wanted, _inForce, _turn, _replies, _lastId, _link, _next, _isUp, _upAt, _heard, _attempts, _sentAway, _failures, _asked, _ended, _flush, _timer, _page, _renewal, _token, _WSClient_instances, ask_fn, send_fn, act_fn, answered_fn, forget_fn, interrupt_fn, freshToken_fn, renew_fn, authenticate_fn, connect_fn, later_fn, newLink_fn, openSocket_fn, openEvents_fn, up_fn, message_fn, lose_fn, reply_fn, told_fn, guard_fn, ping_fn, wake_fn2, jitter_fn, halt_fn, end_fn, _url, _key, _fetch;
const STABLE_AFTER = 1e4;
const NUMBERS = {
  maxsize: 1024,
  backoffBase: 500,
  backoffCap: 3e4,
  heartbeat: 6e4,
  responseTimeout: 1e4,
  webSocketRetry: 12e4
};
const FOR_NOW = /^(unavailable|rate-limited)$/;
const FOR_GOOD = /^(401|403|4[5-9]\d\d)$/;
const EXPIRED = 4501;
const LONGEST = 2 ** 31 - 1;
const LARGE = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;
const MOST_ASKED = 3e5;
const MAX_ADDRESS = 7e3;
const now = () => performance.now();
const timely = (delay) => Math.min(Math.max(delay, 0) || 0, LONGEST);
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (!LARGE.test(text)) return value;
  let inString = false;
  const quoted = text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  });
  return quoted === text ? value : JSON.parse(quoted);
};
const checkToken = (token) => {
  if (typeof token !== "string" || !/^[!-~]+$/.test(token)) throw new TypeError("the token is no text of visible ASCII characters");
  return token;
};
class RealizehitError extends Error {
  /**
   * @param {string} message for people.
   * @param {string} [code] the server's stable code, for programs; empty where it gave none.
   * @param {number} [status] the HTTP status, or the close code of a WebSocket.
   */
  constructor(message, code = "", status = 0) {
    super(`${message}`.replace(/([?&]token=)[^&\s]+/g, "$1***"));
    __publicField(this, "name", "RealizehitError");
    this.code = code;
    this.status = status;
  }
}
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
   * Call `callback` at the next such event only.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  once(event, callback) {
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
class Subscription extends Emitter {
  /**
   * @internal
   * @param {WSClient} client
   * @param {Pattern} pattern
   * @param {string} key
   */
  constructor(client, pattern, key) {
    super();
    __privateAdd(this, _Subscription_instances);
    /** Its label on the wire, empty until it was in force once. */
    __publicField(this, "id", "");
    /** @type {SubscriptionState} */
    __publicField(this, "state", "unsubscribed");
    /** How many payloads came. */
    __publicField(this, "payloads", 0);
    /** How many gaps there were. */
    __publicField(this, "gaps", 0);
    /** How many payloads were lost because an iterator was read too slowly. */
    __publicField(this, "dropped", 0);
    /** @internal @type {string} what tells patterns apart */
    __publicField(this, "_key");
    /** @internal how often it was asked for since it was last in force */
    __publicField(this, "_attempts", 0);
    /** @internal the id of its last `sub` */
    __publicField(this, "_request", "");
    __privateAdd(this, _client);
    /** @type {Set<{waiting: any[], wake: Function}>} */
    __privateAdd(this, _readers, /* @__PURE__ */ new Set());
    /** @type {Error | undefined} why it ended by itself */
    __privateAdd(this, _error);
    /** @type {number | undefined} when messages began to be missing */
    __privateAdd(this, _awaySince);
    __privateSet(this, _client, client);
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
    var _a;
    __privateGet(this, _client)._join(this);
    await __privateMethod(this, _Subscription_instances, until_fn).call(this, "subscribed", "unsubscribed");
    if (!this.subscribed()) throw (_a = __privateGet(this, _error)) != null ? _a : new RealizehitError("it was unsubscribed");
  }
  /**
   * End the subscription. Nothing is handed out any more; what waits is thrown away.
   *
   * @returns {Promise<void>} resolved when the server has confirmed it; at once without a connection.
   */
  async unsubscribe() {
    if (this.subscribed() || this.subscribing()) {
      this._move("unsubscribing");
      __privateMethod(this, _Subscription_instances, wake_fn).call(this, true);
      __privateGet(this, _client)._leave(this);
    }
    await __privateMethod(this, _Subscription_instances, until_fn).call(this, "unsubscribed");
  }
  /**
   * Hand out payloads from now on. Each loop has a queue of its own, which drops its oldest payload when it is full.
   *
   * @returns {AsyncGenerator<Payload, void, void>} ends with the subscription; throws where that ended by itself.
   */
  async *[Symbol.asyncIterator]() {
    const reader = { waiting: (
      /** @type {any[]} */
      []
    ), wake: (
      /** @type {Function} */
      (() => {
      })
    ) };
    __privateGet(this, _readers).add(reader);
    try {
      for (; ; ) {
        while (reader.waiting.length) yield reader.waiting.shift();
        if (__privateGet(this, _error)) throw __privateGet(this, _error);
        if (this.unsubscribed() || this.unsubscribing()) return;
        await new Promise((resolve) => reader.wake = resolve);
      }
    } finally {
      __privateGet(this, _readers).delete(reader);
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
    __privateSet(this, _error, void 0);
    __privateSet(this, _awaySince, void 0);
    this.state = "subscribing";
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
    for (const { waiting } of __privateGet(this, _readers)) {
      if (waiting.push(payload) !== maxsize + 1) continue;
      setTimeout(() => {
        this.dropped += waiting.splice(0, waiting.length - maxsize).length;
      });
    }
    __privateMethod(this, _Subscription_instances, wake_fn).call(this);
    this._emit("payload", payload);
  }
  /** @internal @param {string} id */
  _inForce(id) {
    this.id = id;
    this._attempts = 0;
    this._move("subscribed");
    if (__privateGet(this, _awaySince) !== void 0 && this.subscribed()) {
      const seconds = (now() - __privateGet(this, _awaySince)) / 1e3;
      __privateSet(this, _awaySince, void 0);
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
    var _a;
    if (!this.subscribed()) return;
    (_a = __privateGet(this, _awaySince)) != null ? _a : __privateSet(this, _awaySince, since);
    this._move("subscribing");
  }
  /** @internal @param {Error} [error] */
  _finish(error) {
    __privateSet(this, _error, error);
    this._move("unsubscribed");
    __privateMethod(this, _Subscription_instances, wake_fn).call(this, !error);
    if (error) this._emit("error", error);
  }
}
_client = new WeakMap();
_readers = new WeakMap();
_error = new WeakMap();
_awaySince = new WeakMap();
_Subscription_instances = new WeakSet();
/** @param {SubscriptionState[]} states @returns {Promise<void>} */
until_fn = function(...states) {
  return new Promise((resolve) => {
    if (states.includes(this.state)) resolve();
    else for (const state of states) this.once(state, resolve);
  });
};
wake_fn = function(discard = false) {
  for (const reader of __privateGet(this, _readers)) {
    if (discard) reader.waiting.length = 0;
    reader.wake();
  }
};
const parser = (take, retry) => {
  let [rest, name, data, id] = ["", "", "", ""];
  let cut = false;
  return (text) => {
    const lines = (cut ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    cut = text.endsWith("\r");
    lines[0] = rest + lines[0];
    rest = /** @type {string} */
    lines.pop();
    for (const line of lines) {
      const [, field, value] = (
        /** @type {string[]} */
        /^([^:]*):? ?(.*)/s.exec(line)
      );
      if (!line) {
        if (data) take(name || "message", data.slice(0, -1), id);
        name = data = "";
      } else if (field === "data") data += `${value}
`;
      else if (field === "event") name = value;
      else if (field === "retry" && /^\d+$/.test(value)) retry(+value);
      else if (field === "id" && !value.includes("\0")) id = value;
    }
  };
};
const problem = async (response) => {
  var _a;
  const { code, detail, errors } = (_a = await response.json().catch(() => null)) != null ? _a : {};
  const error = new RealizehitError(detail != null ? detail : `${response.url} answered ${response.status}`, code, response.status);
  return Object.assign(error, { detail, errors });
};
const keyOf = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    if (text === void 0) throw new TypeError(`the filter ${key} is ${typeof value}`);
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};
class WSClient extends Emitter {
  /**
   * @param {string | URL} url where the WebSocket is: `wss://host/ws`, or relative to the page.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    var _a, _b;
    super();
    __privateAdd(this, _WSClient_instances);
    /** The WebSocket's address. */
    __publicField(this, "url");
    /** @type {Required<Omit<Options, "sse" | "token">> & Pick<Options, "token">} */
    __privateAdd(this, _options);
    /** @type {URL | undefined} */
    __privateAdd(this, _sse);
    /** @type {Map<string, Subscription>} what is wanted, by key */
    __privateAdd(this, _wanted, /* @__PURE__ */ new Map());
    /** @type {Map<string, Subscription>} what is in force, by id */
    __privateAdd(this, _inForce, /* @__PURE__ */ new Map());
    /** @type {Map<Subscription, "sub" | "unsub">} what this turn of the event loop asked for */
    __privateAdd(this, _turn, /* @__PURE__ */ new Map());
    /** @type {Map<string, ["sub" | "unsub", Subscription] | ["auth", (code?: string, detail?: string) => void]>} what each reply will be about */
    __privateAdd(this, _replies, /* @__PURE__ */ new Map());
    __privateAdd(this, _lastId, 0);
    /** @type {Link | undefined} the link that is used or being opened */
    __privateAdd(this, _link);
    /** @type {Link | undefined} a stream of events that is to take the place of another one */
    __privateAdd(this, _next);
    __privateAdd(this, _isUp, false);
    __privateAdd(this, _upAt, 0);
    __privateAdd(this, _heard, 0);
    // when the last of it came
    __privateAdd(this, _attempts, 0);
    // since there was a link that lasted
    __privateAdd(this, _sentAway, 0);
    // how often a server named the time to come back, since then
    __privateAdd(this, _failures, 0);
    // of WebSockets, since there was one over which anything came
    __privateAdd(this, _asked, false);
    // whether the server named the time to come back
    /** @type {RealizehitError | undefined} */
    __privateAdd(this, _ended);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    __privateAdd(this, _flush);
    /** @type {ReturnType<typeof setTimeout> | undefined} for the next link, or for this one to show that it is there */
    __privateAdd(this, _timer);
    __privateAdd(this, _page, new AbortController());
    /** @type {ReturnType<typeof setTimeout> | undefined} for a fresh token */
    __privateAdd(this, _renewal);
    /** @type {Promise<string> | undefined} a token that is on its way */
    __privateAdd(this, _token);
    const address = new URL(url, (_a = globalThis.location) == null ? void 0 : _a.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (!/^wss?:$/.test(address.protocol)) throw new TypeError(`${url} is no WebSocket`);
    if (address.pathname === "/") address.pathname = "/ws";
    this.url = address.href;
    __privateSet(this, _options, {
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch,
      parse: parseExact,
      ...NUMBERS,
      ...options
    });
    for (const [name, value] of Object.entries(NUMBERS)) {
      const option = (
        /** @type {keyof typeof NUMBERS} */
        name
      );
      if (!(__privateGet(this, _options)[option] >= 0)) __privateGet(this, _options)[option] = value;
    }
    const { sse = `sse${address.search}`, token } = options;
    if (token != null && typeof token !== "function") checkToken(token);
    if (sse) __privateSet(this, _sse, new URL(sse, this.url.replace("ws", "http")));
    if (!__privateGet(this, _options).WebSocket) {
      if (!sse) throw new TypeError("there is no WebSocket");
      __privateSet(this, _failures, 2);
    }
    const on = { signal: __privateGet(this, _page).signal };
    (_b = globalThis.addEventListener) == null ? void 0 : _b.call(globalThis, "online", () => __privateMethod(this, _WSClient_instances, wake_fn2).call(this), on);
    const page = globalThis.document;
    page == null ? void 0 : page.addEventListener("visibilitychange", () => page.hidden || __privateMethod(this, _WSClient_instances, wake_fn2).call(this), on);
    __privateSet(this, _timer, setTimeout(() => __privateMethod(this, _WSClient_instances, connect_fn).call(this)));
  }
  /** Whether a connection is there. */
  get connected() {
    return __privateGet(this, _isUp);
  }
  /** Whether no connection is there. */
  get disconnected() {
    return !__privateGet(this, _isUp);
  }
  /** The transport of the connection, `websocket` or `sse`; undefined without a connection. */
  get transport() {
    var _a;
    return __privateGet(this, _isUp) ? (_a = __privateGet(this, _link)) == null ? void 0 : _a.kind : void 0;
  }
  /** Those that have not ended. */
  get subscriptions() {
    return [...__privateGet(this, _wanted).values()];
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
    var _a;
    const subscription = (_a = this.getSubscription(pattern)) != null ? _a : new Subscription(this, pattern, keyOf(pattern));
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
    var _a;
    await ((_a = this.getSubscription(pattern)) == null ? void 0 : _a.unsubscribe());
  }
  /**
   * Return the subscription to a pattern, if there is one.
   *
   * @template [Payload=any] what the payloads are, for TypeScript.
   * @param {Pattern} pattern
   * @returns {Subscription<Payload> | undefined}
   */
  getSubscription(pattern) {
    return __privateGet(this, _wanted).get(keyOf(pattern));
  }
  /** End all subscriptions and the connection, for good. */
  close() {
    __privateMethod(this, _WSClient_instances, end_fn).call(this);
  }
  /** The same as `close`. */
  disconnect() {
    this.close();
  }
  /** @internal @param {Subscription} subscription */
  _join(subscription) {
    const { _key: _key2 } = subscription;
    const other = __privateGet(this, _wanted).get(_key2);
    if (__privateGet(this, _ended)) throw __privateGet(this, _ended);
    if (other === subscription) return;
    if (other) throw new Error("there is another subscription");
    if (!subscription.unsubscribed()) throw new Error("it is unsubscribing");
    __privateGet(this, _wanted).set(_key2, subscription);
    subscription._begin();
    __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription, "sub");
  }
  /** @internal @param {Subscription} subscription */
  _leave(subscription) {
    var _a, _b;
    __privateGet(this, _wanted).delete(subscription._key);
    const unsaid = __privateGet(this, _turn).delete(subscription);
    if (!unsaid && __privateGet(this, _isUp) && ((_a = __privateGet(this, _link)) == null ? void 0 : _a.send)) return __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription, "unsub");
    __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
    (_b = __privateGet(this, _flush)) != null ? _b : __privateSet(this, _flush, setTimeout(() => __privateMethod(this, _WSClient_instances, send_fn).call(this)));
  }
}
_options = new WeakMap();
_sse = new WeakMap();
_wanted = new WeakMap();
_inForce = new WeakMap();
_turn = new WeakMap();
_replies = new WeakMap();
_lastId = new WeakMap();
_link = new WeakMap();
_next = new WeakMap();
_isUp = new WeakMap();
_upAt = new WeakMap();
_heard = new WeakMap();
_attempts = new WeakMap();
_sentAway = new WeakMap();
_failures = new WeakMap();
_asked = new WeakMap();
_ended = new WeakMap();
_flush = new WeakMap();
_timer = new WeakMap();
_page = new WeakMap();
_renewal = new WeakMap();
_token = new WeakMap();
_WSClient_instances = new WeakSet();
// ---- what is asked for
/** @param {Subscription} subscription @param {"sub" | "unsub"} act */
ask_fn = function(subscription, act) {
  var _a;
  __privateGet(this, _turn).set(subscription, act);
  (_a = __privateGet(this, _flush)) != null ? _a : __privateSet(this, _flush, setTimeout(() => __privateMethod(this, _WSClient_instances, send_fn).call(this)));
};
/** Send what one turn of the event loop asked for. */
send_fn = function() {
  var _a;
  __privateSet(this, _flush, void 0);
  const turn = [...__privateGet(this, _turn)];
  __privateGet(this, _turn).clear();
  const link = __privateGet(this, _link);
  const waiting = [];
  for (const [subscription, act] of turn) {
    if (__privateGet(this, _isUp) && (link == null ? void 0 : link.send)) __privateMethod(this, _WSClient_instances, act_fn).call(this, act, subscription);
    else if (act === "unsub") __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription);
    else waiting.push(subscription);
  }
  if (link == null ? void 0 : link.send) return;
  if (link && !__privateGet(this, _wanted).size) __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, new RealizehitError("nothing is subscribed", "", 400));
  else if (__privateGet(this, _isUp)) {
    if (waiting.every((each) => {
      var _a2, _b;
      return (_b = (_a2 = __privateGet(this, _next)) == null ? void 0 : _a2.wanted) == null ? void 0 : _b.includes(each);
    })) return;
    (_a = __privateGet(this, _next)) == null ? void 0 : _a.close();
    __privateSet(this, _next, __privateMethod(this, _WSClient_instances, openEvents_fn).call(this));
  } else if (waiting.some((each) => {
    var _a2;
    return !((_a2 = link == null ? void 0 : link.wanted) == null ? void 0 : _a2.includes(each));
  }) && __privateGet(this, _failures) > 1 && __privateGet(this, _sse) && !__privateGet(this, _asked)) {
    link == null ? void 0 : link.close();
    __privateMethod(this, _WSClient_instances, connect_fn).call(this, true);
  }
};
/** @param {any} act `sub`, `unsub` or `ping` @param {Subscription} [subscription] */
act_fn = function(act, subscription) {
  var _a, _b;
  const id = `${++__privateWrapper(this, _lastId)._}`;
  if (subscription) {
    __privateGet(this, _replies).delete(subscription._request);
    subscription._request = id;
    __privateGet(this, _replies).set(id, [act, subscription]);
  }
  (_b = (_a = __privateGet(this, _link)) == null ? void 0 : _a.send) == null ? void 0 : _b.call(_a, { id, act, pat: subscription == null ? void 0 : subscription.pattern });
};
/**
 * Take the answer to a `sub`.
 *
 * @param {Subscription} subscription
 * @param {unknown} id
 * @param {string} [code]
 * @param {string} [detail]
 */
answered_fn = function(subscription, id, code = "", detail = "the server named no id") {
  if (__privateGet(this, _wanted).get(subscription._key) !== subscription) return;
  if (typeof id === "string") {
    __privateGet(this, _inForce).set(id, subscription);
    subscription._inForce(id);
  } else if (FOR_NOW.test(code)) {
    setTimeout(() => {
      if (subscription.subscribing() && __privateGet(this, _wanted).has(subscription._key)) __privateMethod(this, _WSClient_instances, ask_fn).call(this, subscription, "sub");
    }, timely(__privateMethod(this, _WSClient_instances, jitter_fn).call(this, subscription._attempts++)));
  } else __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription, new RealizehitError(detail, code));
};
/**
 * Be done with a subscription.
 *
 * @param {Subscription} subscription
 * @param {Error} [error] why, where it was not asked for
 */
forget_fn = function(subscription, error) {
  if (__privateGet(this, _inForce).get(subscription.id) === subscription) __privateGet(this, _inForce).delete(subscription.id);
  if (error) __privateGet(this, _wanted).delete(subscription._key);
  subscription._finish(error);
};
/** Be without what was in force: all that came after the last thing heard may be missing. */
interrupt_fn = function() {
  __privateGet(this, _inForce).clear();
  for (const subscription of this.subscriptions) subscription._interrupted(__privateGet(this, _heard));
};
// ---- the token
/**
 * Return the token, from the function if one was given; undefined if the client has no token.
 *
 * @returns {Promise<string> | undefined}
 */
freshToken_fn = function() {
  var _a;
  const { token } = __privateGet(this, _options);
  if (token == null) return;
  return (_a = __privateGet(this, _token)) != null ? _a : __privateSet(this, _token, (async () => {
    try {
      return checkToken(await (typeof token === "function" ? token() : token));
    } catch (error) {
      throw new RealizehitError(`there is no token: ${error}`);
    }
  })().finally(() => __privateSet(this, _token, void 0)));
};
/**
 * Give a link a fresh token before the one that it has ends.
 *
 * @param {Link} link
 * @param {number} delay in ms
 * @param {number} [attempts]
 */
renew_fn = function(link, delay, attempts = 0) {
  clearTimeout(__privateGet(this, _renewal));
  __privateSet(this, _renewal, setTimeout(async () => {
    var _a;
    try {
      const token = (
        /** @type {string} */
        await __privateMethod(this, _WSClient_instances, freshToken_fn).call(this)
      );
      if (link !== __privateGet(this, _link)) return;
      if (link.send) await __privateMethod(this, _WSClient_instances, authenticate_fn).call(this, link, token);
      else {
        (_a = __privateGet(this, _next)) == null ? void 0 : _a.close();
        __privateSet(this, _next, __privateMethod(this, _WSClient_instances, openEvents_fn).call(this, token));
      }
    } catch (error) {
      if (link !== __privateGet(this, _link)) return;
      this._emit(
        "error",
        /** @type {Error} */
        error
      );
      __privateMethod(this, _WSClient_instances, renew_fn).call(this, link, __privateMethod(this, _WSClient_instances, jitter_fn).call(this, attempts), attempts + 1);
    }
  }, timely(delay)));
};
/** Send a token; wait for the answer. @param {Link} link @param {string} token @returns {Promise<void>} */
authenticate_fn = function(link, token) {
  return new Promise((resolve, reject) => {
    var _a;
    const id = `${++__privateWrapper(this, _lastId)._}`;
    __privateGet(this, _replies).set(id, ["auth", (code, detail = "") => {
      if (code === void 0) resolve();
      else reject(new RealizehitError(detail, code, FOR_NOW.test(code) ? 0 : 401));
    }]);
    (_a = link.send) == null ? void 0 : _a.call(link, { id, act: "auth", token });
  });
};
// ---- the link
/** Open a link. @param {boolean} events whether to leave WebSockets alone */
connect_fn = function(events = !__privateGet(this, _options).WebSocket) {
  if (__privateGet(this, _ended)) return;
  clearTimeout(__privateGet(this, _timer));
  __privateSet(this, _asked, false);
  if (events && !__privateGet(this, _wanted).size) __privateMethod(this, _WSClient_instances, later_fn).call(this);
  else __privateSet(this, _link, events ? __privateMethod(this, _WSClient_instances, openEvents_fn).call(this) : __privateMethod(this, _WSClient_instances, openSocket_fn).call(this));
};
/** Open a link after a delay. @param {number} [asked] the delay in ms that the server asked for */
later_fn = function(asked) {
  let delay;
  if (asked === void 0) delay = __privateMethod(this, _WSClient_instances, jitter_fn).call(this, __privateWrapper(this, _attempts)._++);
  else {
    const least = __privateGet(this, _sentAway) && __privateMethod(this, _WSClient_instances, jitter_fn).call(this, __privateGet(this, _sentAway));
    delay = Math.min(Math.max(asked, least), MOST_ASKED);
    __privateWrapper(this, _sentAway)._++;
  }
  __privateSet(this, _timer, setTimeout(() => __privateMethod(this, _WSClient_instances, connect_fn).call(this), timely(delay)));
};
/**
 * Make a link, which is lost where it is not up in time.
 *
 * @param {Link["kind"]} kind
 * @param {string | URL} url
 * @param {() => void} stop ends what it is made of, also again
 */
newLink_fn = function(kind, url, stop) {
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
      link.timer = setTimeout(() => __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, lost), timely(delay));
    }
  };
  link.expire(__privateGet(this, _options).responseTimeout, " in time");
  return link;
};
openSocket_fn = function() {
  const { url } = this;
  let socket;
  let over = false;
  const link = __privateMethod(this, _WSClient_instances, newLink_fn).call(this, "websocket", url, () => {
    over = true;
    socket == null ? void 0 : socket.close();
  });
  link.send = (message) => socket == null ? void 0 : socket.send(JSON.stringify(message));
  const open = (token2) => {
    if (over) return;
    link.expire(__privateGet(this, _options).responseTimeout, " in time");
    try {
      socket = new (__privateGet(this, _options)).WebSocket(url);
      socket.onopen = () => {
        if (token2 === void 0) __privateMethod(this, _WSClient_instances, up_fn).call(this, link);
        else __privateMethod(this, _WSClient_instances, authenticate_fn).call(this, link, token2).then(() => over || __privateMethod(this, _WSClient_instances, up_fn).call(this, link), (error) => __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, error));
      };
      socket.onmessage = ({ data }) => {
        var _a;
        const [, id, payload] = (_a = /^(\w+)\?(.*)/s.exec(data)) != null ? _a : [];
        if (link === __privateGet(this, _link)) __privateMethod(this, _WSClient_instances, message_fn).call(this, link, payload != null ? payload : data, id);
        else if (!over) __privateMethod(this, _WSClient_instances, reply_fn).call(this, data);
      };
      socket.onerror = () => link.expire(0, "");
      socket.onclose = ({ code, reason }) => {
        const asked = code === 4001 && /^delay=(\d{1,9})$/.exec(reason);
        const error = new RealizehitError(`the connection to ${url} ended: ${code} ${reason}`, "", code);
        if (code === EXPIRED) {
          error.code = "not-authenticated";
          error.message += "; where the option `token` is a function, the client comes back with a fresh one";
        }
        __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, error, asked ? +asked[1] : void 0);
      };
    } catch (error) {
      link.expire(0, `: ${error}`);
    }
  };
  const token = __privateMethod(this, _WSClient_instances, freshToken_fn).call(this);
  if (token) {
    clearTimeout(link.timer);
    token.then(open, (error) => {
      link.count++;
      __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, error);
    });
  } else open();
  return link;
};
/**
 * Open a stream of events. It is read with `fetch` and not with `EventSource`, which shows neither why a server refuses
 * nor the heartbeats, sends no token but in the address, and would reconnect by rules of its own.
 *
 * @param {string} [token] a fresh one, with which to take the place of a stream whose token ends
 */
openEvents_fn = function(token) {
  const wanted = this.subscriptions;
  const url = new URL(
    /** @type {URL} */
    __privateGet(this, _sse)
  );
  let asked = 0;
  for (const { pattern } of wanted) {
    if (url.href.length > MAX_ADDRESS) break;
    url.searchParams.append("pat", JSON.stringify(pattern));
    asked++;
  }
  const abort = new AbortController();
  const { signal } = abort;
  const link = __privateMethod(this, _WSClient_instances, newLink_fn).call(this, "sse", url, () => abort.abort());
  link.wanted = wanted;
  let delay;
  let failure = new RealizehitError(`the connection to ${url} ended`);
  const answered = ({ ids, errors, ...all }) => wanted.forEach((each, at) => {
    var _a;
    const { code, detail } = (_a = errors == null ? void 0 : errors[at]) != null ? _a : all;
    if (at < asked) __privateMethod(this, _WSClient_instances, answered_fn).call(this, each, ids == null ? void 0 : ids[at], code, detail);
    else if (each.subscribing() && !each._attempts++) {
      each._emit("error", new RealizehitError("too-many-subscriptions for events", "too-many-subscriptions"));
    }
  });
  const take = (name, text, id) => {
    if (signal.aborted) return;
    if (name === "message") return __privateMethod(this, _WSClient_instances, message_fn).call(this, link, text, id);
    let data;
    try {
      data = Object(JSON.parse(text));
    } catch (e) {
      return;
    }
    if (name === "subscribed") {
      __privateSet(this, _next, delay = void 0);
      if (token || link === __privateGet(this, _link) || wanted.some((each, at) => {
        var _a;
        return ((_a = data.ids) == null ? void 0 : _a[at]) && each.subscribing();
      })) __privateMethod(this, _WSClient_instances, up_fn).call(this, link);
      else link.close();
      answered(data);
    } else if (name === "drain" && Number.isFinite(data.delay) && data.delay >= 0) ({ delay } = data);
    else if (name === "unavailable") failure = new RealizehitError(data.detail, data.code, data.status);
    else __privateMethod(this, _WSClient_instances, told_fn).call(this, name, data);
  };
  const read = async () => {
    var _a;
    const { fetch, responseTimeout } = __privateGet(this, _options);
    const request = { cache: "no-store", signal };
    const fresh = token != null ? token : __privateMethod(this, _WSClient_instances, freshToken_fn).call(this);
    if (fresh) {
      clearTimeout(link.timer);
      request.headers = { Authorization: `Bearer ${await fresh}` };
      if (signal.aborted) return;
      link.expire(responseTimeout, " in time");
    }
    const ask = (credentials) => fetch(url, { ...request, credentials });
    const response = await ask("include").catch(async (error) => {
      const other = await ask("omit");
      if (other.ok) throw error;
      return other;
    });
    if (!response.ok) {
      const error = await problem(response);
      const after = /^\d+$/.exec((_a = response.headers.get("retry-after")) != null ? _a : "");
      if (after) delay = +after[0] * 1e3;
      if (error.status === 400) answered(error);
      throw error;
    }
    const reader = (
      /** @type {ReadableStream} */
      response.body.pipeThrough(new TextDecoderStream()).getReader()
    );
    const parse = parser(take, (ms) => delay = ms);
    for (; ; ) {
      const { done, value } = await reader.read();
      if (done) return;
      __privateMethod(this, _WSClient_instances, message_fn).call(this, link);
      parse(value);
    }
  };
  read().then(
    () => __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, failure, delay),
    (error) => error.status ? __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, error, delay) : link.expire(0, `: ${error}`)
  );
  return link;
};
/** Begin to use a link. @param {Link} link */
up_fn = function(link) {
  var _a;
  const before = this.transport;
  if (__privateGet(this, _link) !== link) {
    if (__privateGet(this, _ended) || ((_a = __privateGet(this, _link)) == null ? void 0 : _a.send)) return link.close();
    __privateMethod(this, _WSClient_instances, halt_fn).call(this);
    __privateSet(this, _link, link);
    __privateMethod(this, _WSClient_instances, interrupt_fn).call(this);
    if (__privateGet(this, _ended)) return;
  }
  clearTimeout(link.timer);
  __privateSet(this, _isUp, true);
  __privateSet(this, _upAt, __privateSet(this, _heard, now()));
  if (link.send) {
    __privateGet(this, _turn).clear();
    for (const subscription of this.subscriptions) __privateMethod(this, _WSClient_instances, act_fn).call(this, "sub", subscription);
    if (__privateGet(this, _wanted).size) __privateMethod(this, _WSClient_instances, guard_fn).call(this, link, link.count);
    else __privateMethod(this, _WSClient_instances, ping_fn).call(this, link);
  } else {
    link.timer = setInterval(() => __privateMethod(this, _WSClient_instances, openSocket_fn).call(this), timely(__privateGet(this, _options).webSocketRetry));
    __privateMethod(this, _WSClient_instances, guard_fn).call(this, link);
  }
  if (before !== link.kind) this._emit("connected", link.kind);
};
/**
 * Take what came over a link.
 *
 * @param {Link} link
 * @param {string} [text] none where it is but a sign of life
 * @param {string} [id] whose payload it is; a reply has none
 */
message_fn = function(link, text, id) {
  var _a;
  if (link !== __privateGet(this, _link)) return;
  __privateSet(this, _heard, now());
  link.count++;
  if (text === void 0) return;
  if (link.send) __privateSet(this, _failures, 0);
  if (id) (_a = __privateGet(this, _inForce).get(id)) == null ? void 0 : _a._deliver(text, __privateGet(this, _options));
  else __privateMethod(this, _WSClient_instances, reply_fn).call(this, text);
};
/**
 * End a link, or learn that it has ended, and come back.
 *
 * @param {Link} link
 * @param {RealizehitError} error
 * @param {number} [delay] ms after which the server asked to come back; obeyed within bounds
 */
lose_fn = function(link, error, delay) {
  link.close();
  if (link !== __privateGet(this, _link) && link !== __privateGet(this, _next)) return;
  const { status } = error;
  const renewable = status === EXPIRED && typeof __privateGet(this, _options).token === "function";
  if (FOR_GOOD.test(`${status}`) && !renewable) return __privateMethod(this, _WSClient_instances, end_fn).call(this, error);
  const wasUp = __privateGet(this, _isUp);
  __privateMethod(this, _WSClient_instances, halt_fn).call(this);
  if (wasUp) {
    __privateMethod(this, _WSClient_instances, interrupt_fn).call(this);
    if (now() - __privateGet(this, _upAt) >= STABLE_AFTER) __privateSet(this, _attempts, __privateSet(this, _sentAway, 0));
  }
  __privateSet(this, _asked, delay !== void 0);
  if (link.send && !__privateGet(this, _asked) && !link.count && ++__privateWrapper(this, _failures)._ > 1 && __privateGet(this, _sse)) __privateMethod(this, _WSClient_instances, connect_fn).call(this, true);
  else __privateMethod(this, _WSClient_instances, later_fn).call(this, delay);
  if (wasUp) this._emit("disconnect", error);
  else if (status !== 400) this._emit("error", error);
};
/** @param {string} text */
reply_fn = function(text) {
  var _a;
  let reply;
  try {
    reply = JSON.parse(text);
  } catch (e) {
    return;
  }
  if (reply == null ? void 0 : reply.evt) return __privateMethod(this, _WSClient_instances, told_fn).call(this, reply.evt, reply);
  const expected = __privateGet(this, _replies).get(reply == null ? void 0 : reply.id);
  if (!expected) return;
  __privateGet(this, _replies).delete(reply.id);
  if (expected[0] === "auth") expected[1](reply.err && ((_a = reply.code) != null ? _a : ""), reply.err);
  else if (expected[0] === "unsub") __privateMethod(this, _WSClient_instances, forget_fn).call(this, expected[1]);
  else __privateMethod(this, _WSClient_instances, answered_fn).call(this, expected[1], reply.ret, reply.code, reply.err);
};
/**
 * Take what the server tells of subscriptions without having been asked: its broker was away, or it ended them.
 *
 * @param {string} name
 * @param {{ids?: string[], seconds: number, code: string, reason: string}} event with what belongs to its name
 */
told_fn = function(name, { ids, seconds, code, reason }) {
  if (name === "expiring") {
    this._emit(name, seconds);
    if (typeof __privateGet(this, _options).token === "function" && __privateGet(this, _link)) __privateMethod(this, _WSClient_instances, renew_fn).call(this, __privateGet(this, _link), seconds * (250 + Math.random() * 250));
  }
  for (const id of Array.isArray(ids) ? ids : []) {
    const subscription = __privateGet(this, _inForce).get(id);
    if (!(subscription == null ? void 0 : subscription.subscribed())) continue;
    if (name === "gap") subscription._gap(seconds);
    else if (name === "unsubscribed") __privateMethod(this, _WSClient_instances, forget_fn).call(this, subscription, new RealizehitError(reason, code));
  }
};
/**
 * Hold the link to its heartbeat: a connection can be gone without a word.
 *
 * @param {Link} link
 * @param {number} [count] what had come when something was sent that must be answered
 */
guard_fn = function(link, count) {
  const { heartbeat, responseTimeout } = __privateGet(this, _options);
  clearTimeout(__privateGet(this, _timer));
  __privateSet(this, _timer, setTimeout(
    () => {
      const answered = count !== link.count;
      if (answered && now() - __privateGet(this, _heard) < heartbeat) __privateMethod(this, _WSClient_instances, guard_fn).call(this, link);
      else if (answered && link.send) __privateMethod(this, _WSClient_instances, ping_fn).call(this, link);
      else __privateMethod(this, _WSClient_instances, lose_fn).call(this, link, new RealizehitError("the server is silent"));
    },
    timely(count === void 0 ? __privateGet(this, _heard) + heartbeat - now() : responseTimeout)
  ));
};
/** @param {Link} link */
ping_fn = function(link) {
  __privateMethod(this, _WSClient_instances, act_fn).call(this, "ping");
  __privateMethod(this, _WSClient_instances, guard_fn).call(this, link, link.count);
};
/** Come back, or look whether the connection is still there: the network or the page has just come back. */
wake_fn2 = function() {
  const link = __privateGet(this, _link);
  if (__privateGet(this, _isUp) && (link == null ? void 0 : link.send)) __privateMethod(this, _WSClient_instances, ping_fn).call(this, link);
  else if (__privateGet(this, _isUp) && link) __privateMethod(this, _WSClient_instances, guard_fn).call(this, link);
  else if (!__privateGet(this, _asked)) {
    link == null ? void 0 : link.close();
    __privateMethod(this, _WSClient_instances, connect_fn).call(this);
  }
};
/** Return a delay in ms, drawn evenly from zero to a bound that doubles. @param {number} attempts */
jitter_fn = function(attempts) {
  const { backoffBase, backoffCap } = __privateGet(this, _options);
  return Math.random() * Math.min(backoffCap, backoffBase * 2 ** attempts);
};
/** Be without a link. */
halt_fn = function() {
  var _a, _b;
  (_a = __privateGet(this, _link)) == null ? void 0 : _a.close();
  (_b = __privateGet(this, _next)) == null ? void 0 : _b.close();
  __privateSet(this, _link, __privateSet(this, _next, void 0));
  __privateSet(this, _isUp, false);
  clearTimeout(__privateGet(this, _timer));
  clearTimeout(__privateGet(this, _renewal));
  for (const reply of __privateGet(this, _replies).values()) if (reply[0] === "unsub") __privateMethod(this, _WSClient_instances, forget_fn).call(this, reply[1]);
  __privateGet(this, _replies).clear();
};
/** End for good. @param {RealizehitError} [error] why, where it was not asked for */
end_fn = function(error) {
  if (__privateGet(this, _ended)) return;
  __privateSet(this, _ended, error != null ? error : new RealizehitError("the client was closed"));
  const wasUp = __privateGet(this, _isUp);
  const subscriptions = this.subscriptions;
  __privateMethod(this, _WSClient_instances, halt_fn).call(this);
  __privateGet(this, _page).abort();
  __privateGet(this, _wanted).clear();
  if (wasUp) this._emit("disconnect", __privateGet(this, _ended));
  for (const subscription of subscriptions) subscription._finish(error);
  if (error) this._emit("error", error);
};
class APIClient {
  /**
   * @param {string | URL} url the API's address with its prefix.
   * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: in place of the
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
   * @param {any} payload what JSON can hold.
   * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many the broker reached.
   * @throws {RealizehitError} the server refused it; `code` and `status` say why. Where the server was not reached, it is
   *   the error of `fetch`; whether it was published is not known then.
   */
  async publish(pattern, payload) {
    keyOf(pattern);
    if (JSON.stringify(payload) === void 0) throw new TypeError(`the payload is ${typeof payload}`);
    const response = await __privateGet(this, _fetch).call(this, __privateGet(this, _url), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...__privateGet(this, _key) && { Authorization: `Bearer ${__privateGet(this, _key)}` } },
      body: JSON.stringify({ pattern, payload })
    });
    if (!response.ok) throw await problem(response);
    return response.json();
  }
}
_url = new WeakMap();
_key = new WeakMap();
_fetch = new WeakMap();
export {
  APIClient,
  RealizehitError,
  Subscription,
  WSClient
};
