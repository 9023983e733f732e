import { parseExact } from "./json.js";

/**
 * @typedef {object} SocketLike the part of a WebSocket that the client uses
 * @property {(text: string) => void} send
 * @property {(code: number) => void} close
 * @property {any} onopen
 * @property {any} onmessage
 * @property {any} onclose
 * @property {any} onerror
 *
 * @typedef {object} Options times are in milliseconds
 * @property {new (url: string) => SocketLike} [WebSocket] instead of the platform's; Node.js before 22 has none.
 * @property {(url: URL, request: RequestInit) => Promise<Response>} [fetch] instead of the platform's.
 * @property {string | URL | false} [sse] the address of the event stream, by default `sse` beside the WebSocket's address;
 *   false to use WebSockets only.
 * @property {(text: string) => any} [parse] makes a payload of its JSON text. The default is `JSON.parse`, except that
 *   integers beyond `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`, become strings of their digits.
 * @property {string | (() => string | Promise<string>)} [token] proves to the server who the client is. A function is
 *   called for each connection, before its token ends, and after it has ended; it returns a fresh token each time.
 * @property {number} [maxsize] how many payloads may wait in a loop, 1024.
 * @property {number} [backoffBase] the first bound of the delay before reconnecting, 500.
 * @property {number} [backoffCap] the last bound of that delay, 30000.
 * @property {number} [heartbeat] silence after which a ping is sent, 60000.
 * @property {number} [responseTimeout] for connecting, and for the reply to a ping, 10000.
 * @property {number} [webSocketRetry] between attempts to change from the event stream to a WebSocket, 120000.
 */

const DEFAULT_NUMBERS = {
  maxsize: 1024, backoffBase: 500, backoffCap: 30_000, heartbeat: 60_000, responseTimeout: 10_000, webSocketRetry: 120_000,
};

/**
 * Fill in the defaults, also for numbers that are given as undefined or are not numbers.
 *
 * @param {Options} options
 */
export const resolveOptions = (options) => {
  const resolved = /** @type {Required<Omit<Options, "sse">>} */ ({
     WebSocket: globalThis.WebSocket, fetch: globalThis.fetch, parse: parseExact, ...options,
  });
  for (const [name, value] of /** @type {[keyof typeof DEFAULT_NUMBERS, number][]} */ (Object.entries(DEFAULT_NUMBERS))) {
    if (!(resolved[name] >= 0)) resolved[name] = value;
  }
  return resolved;
};

/** @param {unknown} value @returns {value is Function} */
export const isFunction = (value) => typeof value === "function";

/**
 * Return a token that a header can carry.
 *
 * @param {unknown} token
 * @throws {TypeError} it is something else; the message does not contain it.
 */
export const checkToken = (token) => {
  if (typeof token !== "string" || !/^[!-~]+$/.test(token)) {
    throw new TypeError("the token is not visible ASCII");
  }
  return token;
};
