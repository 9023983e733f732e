import { RealizehitError } from "./error.js";
import { callAfter } from "./timing.js";
/** @import { WSClient } from "./client.js" */
/** @import { Subscription } from "./subscription.js" */

/**
 * A connection to a server. It tells its client `_opened`, `_receive` and `_lost`, and is not used again after `_lost`. The
 * client ignores calls of a connection that it has given up.
 *
 * @internal
 */
export class Connection {
  /** How many messages, replies and heartbeats came over it. */
  _received = 0;
  /** @type {((message: object) => void) | undefined} sends an action; an event stream has no such method */
  _send;
  /** @type {Subscription[] | undefined} the subscriptions when an event stream was opened */
  _requested;
  /** @type {ReturnType<typeof setTimeout> | undefined} until it must be open; later until an event stream tries a WebSocket */
  _timer;
  _client;
  _kind;
  _url;

  /** @param {WSClient} client @param {"websocket" | "sse"} kind @param {string | URL} url */
  constructor(client, kind, url) {
    this._client = client;
    this._kind = kind;
    this._url = url;
    this._expectOpen();
  }

  /** Stop the transport, without an event. It may be called again. */
  _stop() {}

  /** End the connection, without an event. */
  _close() {
    clearTimeout(this._timer);
    this._stop();
  }

  /** Wait for it to open; it is lost if it does not within the time for a response. */
  _expectOpen() {
    this._failAfter(this._client._options.responseTimeout, " in time");
  }

  /** Lose it after a delay in ms, unless it opens before. @param {number} delay @param {string} why */
  _failAfter(delay, why) {
    clearTimeout(this._timer);
    const error = new RealizehitError(`no connection to ${this._url}${why}`);
    this._timer = callAfter(() => this._client._lost(this, error), delay);
  }
}
