import { createBackoff } from "./backoff.js";
import { EXPIRED, FINAL_STATUS, TEMPORARY_CODE } from "./close_codes.js";
import { Emitter } from "./emitter.js";
import { RealizehitError } from "./error.js";
import { WebSocketConnection } from "./websocket.js";
import { EventStreamConnection } from "./event_stream.js";
import { checkToken, isFunction, resolveOptions } from "./options.js";
import { parseObject } from "./parse_object.js";
import { patternKey } from "./pattern_key.js";
import { Subscription } from "./subscription.js";
import { callAfter, now, timeOfArrival } from "./timing.js";
/** @import { Connection } from "./connection.js" */
/** @import { Options } from "./options.js" */
/** @import { Pattern } from "./pattern_key.js" */
/** @import { HistoryOptions, ReceivedMessage } from "./subscription.js" */

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
