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
