import { Emitter } from "./emitter.js";
import { now } from "./timing.js";
import { RealizehitError } from "./error.js";
/** @import { WSClient } from "./client.js" */
/** @import { Pattern } from "./pattern_key.js" */

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
