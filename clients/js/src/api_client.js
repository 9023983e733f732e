import { errorFrom } from "./error.js";
import { patternKey } from "./pattern_key.js";
/** @import { Options } from "./options.js" */
/** @import { Pattern } from "./pattern_key.js" */

/**
 * Publish over HTTP.
 *
 *     const { nodes } = await new APIClient("https://example.org/").publish({ kind: "news" }, { title: "hello" });
 */
export class APIClient {
  #url;
  #key;
  /** @type {NonNullable<Options["fetch"]>} */
  #fetch;

  /**
   * @param {string | URL} url the API's address with its prefix.
   * @param {{key?: string, fetch?: Options["fetch"]}} [options] key: sent as `Authorization: Bearer`; fetch: instead of the
   *   platform's.
   */
  constructor(url, { key, fetch } = {}) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#key = key;
    this.#fetch = fetch ?? ((url, request) => globalThis.fetch(url, request));
  }

  /**
   * Publish one message.
   *
   * @param {Pattern} pattern
   * @param {any} payload a value that JSON can represent.
   * @returns {Promise<{status: string, id: string, nodes: number}>} nodes: how many nodes the broker reached.
   * @throws {RealizehitError} the server refused it; `code` and `status` say why. If the server was not reached, the error is
   *   the one of `fetch`; it is then unknown whether the message was published.
   */
  async publish(pattern, payload) {
    patternKey(pattern);
    if (JSON.stringify(payload) === undefined) throw new TypeError(`the payload is ${typeof payload}`);
    const response = await this.#fetch(this.#url, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(this.#key && { Authorization: `Bearer ${this.#key}` }) },
      body: JSON.stringify({ pattern, payload }),
    });
    if (!response.ok) throw await errorFrom(response);
    return response.json();
  }
}
