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
