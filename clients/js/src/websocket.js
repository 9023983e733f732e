import { Connection } from "./connection.js";
import { EXPIRED } from "./close_codes.js";
import { RealizehitError } from "./error.js";
/** @import { WSClient } from "./client.js" */
/** @import { SocketLike } from "./options.js" */

/** A connection over a WebSocket. */
export class WebSocketConnection extends Connection {
  /** @type {SocketLike | undefined} */
  #socket;
  #closed = false;

  /** @param {WSClient} client */
  constructor(client) {
    super(client, "websocket", client.url);
    this._send = (/** @type {object} */ message) => this.#socket?.send(JSON.stringify(message));
    const token = client._freshToken();
    if (token) {
      clearTimeout(this._timer); // a function that returns a token may have to ask a person
      token.then((token) => this.#open(token), (error) => {
        this._received++; // WebSockets have not failed
        client._lost(this, error);
      });
    } else this.#open();
  }

  _stop() {
    this.#closed = true;
    this.#socket?.close(1000);
  }

  /** @param {string} [token] */
  #open(token) {
    const client = this._client;
    if (this.#closed) return;
    this._expectOpen();
    try {
      const socket = (this.#socket = new client._options.WebSocket(client.url));
      socket.onopen = () => {
        if (token == null) client._opened(this);
        // Scripts cannot set headers here, and addresses are logged: the token is the first message.
        else client._authenticate(this, token).then(() => this.#closed || client._opened(this), (error) => client._lost(this, error));
      };
      socket.onmessage = (/** @type {{data: string}} */ { data }) => {
        const [, label, payload] = /^(\w+(?:@[^?]*)?)\?(.*)/s.exec(data) ?? [];
        if (!this.#closed) client._receive(this, payload ?? data, label);
      };
      // A close event follows at once and says more, but not on every platform.
      socket.onerror = () => this._failAfter(0, "");
      socket.onclose = (/** @type {{code: number, reason: string}} */ { code, reason }) => {
        const delay = code === 4001 && /^delay=(\d{1,9})$/.exec(reason);
        const error = new RealizehitError(`the connection to ${client.url} ended: ${code} ${reason}`, "", code);
        if (code === EXPIRED) {
          error.code = "not-authenticated";
          error.message += "; a function as option `token` renews it";
        }
        client._lost(this, error, delay ? +delay[1] : undefined);
      };
    } catch (error) {
      this._failAfter(0, `: ${error}`);
    }
  }
}
