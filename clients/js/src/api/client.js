import { APIError, errorOfResult, PublishUnclear, RateLimited, TooLarge, Unavailable } from "./errors.js";
import { historyOf } from "./history.js";
import { checkedKey, encodeMessage, encodePattern } from "./message.js";
import { send } from "./request.js";
/** @import { History } from "./history.js" */
/** @import { OutgoingMessage } from "./message.js" */
/** @import { RequestOptions } from "./request.js" */
/** @import { Pattern } from "../pattern_key.js" */

const BATCH_MESSAGES = 10_000; // the server's limit for one batch
const BATCH_BYTES = 4 * 2 ** 20; // the server's limit for the body of a batch

/**
 * @typedef {object} APIOptions times are in milliseconds
 * @property {string} [key] the API key, sent as `Authorization: Bearer`.
 * @property {number} [timeout] for each try, and the longest time that a server can ask the client to wait, 10000.
 * @property {number} [backoffBase] the first bound of the delay before a retry, 250.
 * @property {boolean} [retryUnclear] also repeat a request that the server may have taken, true. Turn it off for
 *   servers that do not keep idempotency keys: there a message could be published twice.
 * @property {(url: URL, request: RequestInit) => Promise<Response>} [fetch] instead of the platform's; it has to heed `signal`.
 *
 * @typedef {object} PublishResult
 * @property {string} id the pattern's id.
 * @property {number} nodes how many nodes the broker reached.
 * @property {string} [at] the message's position, if the pattern has a history.
 * @property {boolean} [duplicate] whether a message with the same idempotency key was published before.
 *
 * @typedef {(PublishResult & {error?: undefined}) | {error: APIError, id?: undefined, nodes?: undefined}} PublishOutcome what
 *   happened to one message of many: the result, or the error that `publish` would throw.
 */

/** @param {any} result */
const isResult = (result) => typeof result?.id === "string" && typeof result.nodes === "number";

/**
 * Publish over HTTP, and read the history.
 *
 *     const api = new APIClient("https://example.org/", { key: process.env.REALIZEHIT_KEY });
 *     const { nodes } = await api.publish({ kind: "news" }, { title: "hello" });
 *
 * A request is repeated, three tries in all, if the message was certainly not published: no connection could be made, or the server
 * answered 429, or 503 with `Retry-After`. Every message has an idempotency key, which stays the same in all tries.
 */
export class APIClient {
  #url;
  #headers;
  /** @type {RequestOptions} */
  #options;

  /**
   * @param {string | URL} url the API's address with its prefix: `https://host/`, or relative to the page.
   * @param {APIOptions} [options]
   * @throws {TypeError} the address or the key cannot be used; the message does not contain the key.
   */
  constructor(url, { key, timeout, backoffBase, retryUnclear = true, fetch } = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    if (!/^https?:$/.test(this.#url.protocol)) throw new TypeError("the address of the API does not begin with http:// or https://");
    if (this.#url.username || this.#url.password) throw new TypeError("the address of the API holds a user name or password");
    if (key !== undefined && !/^[!-~]+$/.test(key)) throw new TypeError("the API key is not visible ASCII characters");
    this.#url.pathname = this.#url.pathname.replace(/\/?$/, "/");
    this.#headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    this.#options = {
      fetch: fetch ?? ((url, request) => globalThis.fetch(url, request)),
      timeout: Number(timeout) > 0 ? Math.min(Number(timeout), 2 ** 31 - 1) : 10_000, // what a timer can wait
      backoffBase: Number(backoffBase) >= 0 ? Number(backoffBase) : 250,
      retryUnclear,
    };
  }

  /**
   * Publish one message.
   *
   * @param {Pattern} pattern
   * @param {any} payload a value that JSON can represent, or a `RawJSON`.
   * @param {{key?: string}} [options] key: an idempotency key, 1 to 64 visible ASCII characters; the client makes one by default.
   * @returns {Promise<PublishResult>}
   * @throws {APIError} the server refused the message, or cannot be reached; the error's class, `code` and `status` say why.
   */
  async publish(pattern, payload, { key } = {}) {
    const headers = { ...this.#headers, "Idempotency-Key": checkedKey(key) };
    const result = await this.#post(this.#url, headers, `${encodeMessage(pattern, payload)}}`);
    if (!isResult(result)) throw new PublishUnclear("the answer to the publication is not understood", "", 200);
    return result;
  }

  /**
   * Publish any number of messages in order, in batches of up to 10,000 messages and 4 MiB. A message that is refused does not
   * affect the others. After a batch that failed because the server cannot take it now, the rest is not sent and gets
   * `Unavailable`.
   *
   * @param {Iterable<OutgoingMessage>} messages
   * @returns {Promise<PublishOutcome[]>} an outcome for each message, in the same order.
   */
  async publishMany(messages) {
    /** @type {PublishOutcome[]} */
    const outcomes = [];
    /** @type {{text: string, at: number}[]} */
    let batch = [];
    let bytes = 0;
    let failed = false;
    const flush = async () => {
      if (batch.length && !failed) failed = await this.#publishBatch(batch, outcomes);
      else for (const { at } of batch) outcomes[at] = { error: new Unavailable("not sent, because an earlier batch failed", "unavailable") };
      batch = [];
      bytes = 0;
    };
    const encoder = new TextEncoder();
    let at = 0;
    for (const message of messages) {
      try {
        if (Object(message) !== message) throw new APIError("a message is an object", "bad-request");
        const key = checkedKey(message.key);
        const text = `${encodeMessage(message.pattern, message.payload)},"key":${JSON.stringify(key)}}`;
        const size = encoder.encode(text).length + 1; // with the comma
        if (size > BATCH_BYTES - 64) throw new TooLarge(`the message has ${size} bytes; a batch has at most ${BATCH_BYTES}`, "too-large");
        if (batch.length === BATCH_MESSAGES || bytes + size > BATCH_BYTES - 64) await flush();
        batch.push({ text, at });
        bytes += size;
      } catch (error) {
        if (!(error instanceof APIError)) throw error;
        outcomes[at] = { error };
      }
      at++;
    }
    await flush();
    return outcomes;
  }

  /**
   * Publish one batch, fill in its outcomes, and return whether the server cannot take more now.
   *
   * @param {{text: string, at: number}[]} batch
   * @param {PublishOutcome[]} outcomes
   */
  async #publishBatch(batch, outcomes) {
    const body = `{"messages":[${batch.map(({ text }) => text).join()}]}`;
    try {
      const { results } = await this.#post(new URL("batch", this.#url), this.#headers, body);
      if (!Array.isArray(results) || results.length !== batch.length) {
        throw new PublishUnclear(`the answer has not one result for each of the ${batch.length} messages`, "", 200);
      }
      for (const [n, { at }] of batch.entries()) {
        outcomes[at] = isResult(results[n]) ? results[n] : { error: errorOfResult(results[n]) };
      }
      return false;
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      for (const { at } of batch) outcomes[at] = { error };
      return error instanceof Unavailable || error instanceof PublishUnclear || error instanceof RateLimited;
    }
  }

  /**
   * Read the messages that the server keeps of a pattern.
   *
   * @param {Pattern} pattern
   * @param {{last?: number, since?: string, limit?: number}} [options] last: how many of the newest messages; since: a position,
   *   after which the messages come; limit: how many of these at most. Without `last` and `since` there are no messages, only
   *   the position `at`.
   * @returns {Promise<History>}
   * @throws {APIError} the server refused it, with the code `no-history` if it keeps none of the pattern, or cannot be reached.
   */
  async history(pattern, { last, since, limit } = {}) {
    const url = new URL("history", this.#url);
    url.searchParams.set("pat", encodePattern(pattern));
    for (const [name, value] of Object.entries({ last, since, limit })) if (value !== undefined) url.searchParams.set(name, `${value}`);
    const { "Content-Type": _, ...headers } = this.#headers;
    const { answer, text } = await send(url, { method: "GET", headers }, this.#options);
    const history = historyOf(answer, text, pattern);
    if (!history) throw new APIError("the answer is not a history", "", 200);
    return history;
  }

  /**
   * @param {URL} url
   * @param {Record<string, string>} headers
   * @param {string} body
   */
  async #post(url, headers, body) {
    return (await send(url, { method: "POST", headers, body }, this.#options)).answer;
  }
}
