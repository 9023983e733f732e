import { Connection } from "./connection.js";
import { errorFrom, RealizehitError } from "./error.js";
import { eventStreamParser } from "./event_stream_parser.js";
/** @import { WSClient } from "./client.js" */

const MAX_ADDRESS = 7000; // characters before the last pattern; many proxies accept 8 KiB at most

/**
 * A connection over Server-Sent Events. It reads them with `fetch`, because `EventSource` shows neither why a server refuses
 * nor the heartbeats, sends a token only in the address, and reconnects by its own rules.
 */
export class EventStreamConnection extends Connection {
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
    super(client, "sse", url);
    this.#token = token;
    this._requested = client.subscriptions;
    for (const { pattern } of this._requested) {
      if (url.href.length > MAX_ADDRESS) break;
      url.searchParams.append("pat", JSON.stringify(pattern));
      this.#count++;
    }
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
    /** @type {RequestInit} */
    const request = { cache: "no-store", signal };
    const token = this.#token ?? client._freshToken();
    if (token) {
      clearTimeout(this._timer);
      request.headers = { Authorization: `Bearer ${await token}` };
      if (signal.aborted) return;
      this._expectOpen();
    }
    /** @param {RequestCredentials} credentials */
    const send = (credentials) => fetch(url, { ...request, credentials });
    // Cookies identify the client, as with a WebSocket. A page that may not use the server cannot read the response then;
    // without cookies it can, and the response says why.
    const response = await send("include").catch(async (error) => {
      const other = await send("omit");
      if (other.ok) throw error;
      return other;
    });
    if (!response.ok) {
      const error = await errorFrom(response);
      const after = /^\d+$/.exec(response.headers.get("retry-after") ?? ""); // seconds; a date would need a correct clock
      if (after) this.#delay = +after[0] * 1000;
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
    let data;
    try {
      data = Object(JSON.parse(text));
    } catch {
      return; // an event that this client does not know
    }
    if (name === "subscribed") {
      this.#delay = undefined;
      this._client._streamOpened(this, this.#token || this._requested?.some((each, at) => data.ids?.[at] && each.subscribing()));
      this.#confirm(data);
    } else if (name === "drain" && Number.isFinite(data.delay) && data.delay >= 0) this.#delay = data.delay;
    else if (name === "unavailable") this.#failure = new RealizehitError(data.detail, data.code, data.status);
    else this._client._handleEvent(name, data);
  }

  /**
   * Tell each subscription what the server answered.
   *
   * @param {{ids?: (string | null)[], errors?: ({code: string, detail: string} | null)[], code?: string, detail?: string}} answer
   */
  #confirm({ ids, errors, ...all }) {
    this._requested?.forEach((each, at) => {
      const { code, detail } = errors?.[at] ?? all;
      if (at < this.#count) this._client._answered(each, ids?.[at], code, detail);
      else if (each.subscribing() && !each._attempts++) {
        each._emit("error", new RealizehitError("too-many-subscriptions for events", "too-many-subscriptions"));
      }
    });
  }
}
