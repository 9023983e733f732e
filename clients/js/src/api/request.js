import { APIError, errorOfAnswer, PublishUnclear, RateLimited, Unavailable } from "./errors.js";

const TRIES = 3;
const MAX_BACKOFF = 5000; // ms

/**
 * @typedef {object} RequestOptions
 * @property {(url: URL, request: RequestInit) => Promise<Response>} fetch
 * @property {number} timeout in ms
 * @property {number} backoffBase in ms
 * @property {boolean} retryUnclear
 */

/**
 * Return the seconds that `Retry-After` names.
 *
 * @param {string | null} text
 */
const secondsOf = (text) => {
  if (!text) return undefined;
  const seconds = /^\d+$/.test(text) ? Number(text) : Math.max((Date.parse(text) - Date.now()) / 1000, 0);
  return Number.isNaN(seconds) ? undefined : seconds;
};

/**
 * Tell whether no connection could be made. Only Node.js says so; in browsers all failures look alike.
 *
 * @param {any} error
 */
const couldNotConnect = ({ cause }) =>
  ["connect", "getaddrinfo"].includes((cause?.errors?.[0] ?? cause)?.syscall) || cause?.code === "UND_ERR_CONNECT_TIMEOUT";

/** @param {string} text */
const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
};

/**
 * Send a request once and return the object that the server answers, and its text.
 *
 * @param {URL} url
 * @param {RequestInit} request
 * @param {RequestOptions} options
 */
const exchange = async (url, request, { fetch, timeout }) => {
  const Unclear = request.method === "POST" ? PublishUnclear : Unavailable; // what only reads can be repeated
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), timeout);
  try {
    // A redirection could take the API key to another server.
    const response = await fetch(url, { ...request, redirect: "manual", signal: aborter.signal });
    const text = await response.text();
    const answer = parsed(text);
    if (!response.ok) throw errorOfAnswer(response.status, answer, secondsOf(response.headers.get("Retry-After")), Unclear);
    if (Object(answer) === answer) return { answer, text };
    throw new Unclear("the answer is not understood", "", response.status);
  } catch (cause) {
    if (cause instanceof APIError) throw cause;
    if (aborter.signal.aborted) throw new Unclear(`no answer within ${timeout} ms`, "unavailable", 0, { cause });
    const { message, cause: reason } = /** @type {Error} */ (cause);
    const text = /** @type {Error | undefined} */ (reason)?.message || message;
    if (couldNotConnect(cause)) throw new Unavailable(`the server cannot be reached: ${text}`, "unavailable", 0, { cause });
    throw new Unclear(`the answer did not arrive: ${text}`, "unavailable", 0, { cause });
  } finally {
    clearTimeout(timer);
  }
};

/**
 * Send a request and return the object that the server answers, and its text. Repeat it, three tries in all, after an error that permits
 * this: the delays are random, below a bound that doubles, and come after the time that the server asks for.
 *
 * @param {URL} url
 * @param {RequestInit} request
 * @param {RequestOptions} options
 * @returns {Promise<{answer: any, text: string}>}
 * @throws {APIError} the last error.
 */
export const send = async (url, request, options) => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await exchange(url, request, options);
    } catch (error) {
      const { retryAfter = 0, status } = /** @type {APIError} */ (error);
      // Not after another status: its sender, such as a proxy's error page, would say the same again.
      const unclear = error instanceof PublishUnclear && [0, 200, 503].includes(status);
      const repeatable = error instanceof RateLimited || error instanceof Unavailable || (options.retryUnclear && unclear);
      if (!repeatable || attempt === TRIES || retryAfter * 1000 > options.timeout) throw error;
      const jitter = Math.random() * Math.min(MAX_BACKOFF, options.backoffBase * 2 ** (attempt - 1));
      await new Promise((resolve) => setTimeout(resolve, retryAfter * 1000 + jitter));
    }
  }
};
