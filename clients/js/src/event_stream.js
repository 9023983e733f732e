import { Connection } from "./connection.js";
import { errorFrom, RealizehitError } from "./error.js";
import { eventStreamParser } from "./event_stream_parser.js";
import { parseObject } from "./parse_object.js";
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
