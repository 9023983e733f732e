/*! realizehit 0.1.0, MIT; joined of src/api/, 5ed8b6da57a839e5 */
/**
 * realizehit for JavaScript: the API client. It publishes single messages and batches over HTTP, with time-outs and retries.
 *
 * `api.js` and the files made of it in `lib/` are built from `src/api/`: `npm run build`.
 *
 * @license MIT
 * @module
 */

import { RealizehitError } from "./realizehit.js";
export { RealizehitError };

/**
 * An error of the API client. `code` is the stable code of the server, or the code that the server has for the same mistake;
 * `status` is the HTTP status, 0 if no answer came. The subclasses tell what an error means.
 */
export class APIError extends RealizehitError {
  name = "APIError";

  /**
   * @param {string} message text for people.
   * @param {string} [code]
   * @param {number} [status]
   * @param {{retryAfter?: number, cause?: unknown}} [more]
   */
  constructor(message, code, status, { retryAfter, cause } = {}) {
    super(message, code, status);
    /** The seconds that the server asks the client to wait; undefined if it names none. */
    this.retryAfter = retryAfter;
    if (cause !== undefined) this.cause = cause;
  }
}

/** The pattern breaks a rule. */
export class BadPattern extends APIError {
  name = "BadPattern";
}

/** The API key may not publish to the pattern. */
export class Forbidden extends APIError {
  name = "Forbidden";
}

/** The API key is missing or unknown. */
export class NotAuthenticated extends APIError {
  name = "NotAuthenticated";
}

/** The API key publishes too much. */
export class RateLimited extends APIError {
  name = "RateLimited";
}

/** A payload or a request has too many bytes. */
export class TooLarge extends APIError {
  name = "TooLarge";
}

/** The server or its broker cannot be reached. Nothing was published, so the same call may succeed later. */
export class Unavailable extends APIError {
  name = "Unavailable";
}

/** It is not known whether the message was published: the answer did not arrive, or the server does not know. */
export class PublishUnclear extends APIError {
  name = "PublishUnclear";
}

const CLASSES = new Map(/** @type {[string | number, typeof APIError][]} */ ([
  ["bad-pattern", BadPattern],
  ["wildcard-unsupported", BadPattern],
  ["forbidden", Forbidden],
  ["not-authenticated", NotAuthenticated],
  ["rate-limited", RateLimited],
  ["too-large", TooLarge],
  ["too-many-connections", Unavailable],
  [401, NotAuthenticated],
  [403, Forbidden],
  [413, TooLarge],
  [429, RateLimited],
]));

/**
 * Tell whether an answer leaves open if the message was published. The server sends `Retry-After` with a 503 only if nothing
 * was published. 500, 502 and 504 without a code come from a proxy, or from a server that failed meanwhile.
 *
 * @param {number} status
 * @param {string} code
 * @param {number | undefined} retryAfter
 */
const isUnclear = (status, code, retryAfter) =>
  status === 500 || status === 504 || (status === 502 && !code) || (status === 503 && retryAfter === undefined);

/**
 * Make the error of an answer that refuses a request.
 *
 * @param {number} status
 * @param {any} problem the parsed body; anything but a problem document is ignored.
 * @param {number} [retryAfter] in seconds
 * @param {typeof APIError} [Unclear] the error if it is open whether the server did what was asked.
 */
const errorOfAnswer = (status, problem, retryAfter, Unclear = PublishUnclear) => {
  const code = typeof problem?.code === "string" ? problem.code : "";
  const text = typeof problem?.detail === "string" ? problem.detail : `the server answered with ${status || "a redirection"}`;
  const unclear = isUnclear(status, code, retryAfter);
  const known = unclear ? Unclear : (CLASSES.get(code) ?? (status === 503 ? Unavailable : CLASSES.get(status)));
  return new (known ?? APIError)(text, code, status, { retryAfter });
};

/**
 * Make the error of one message of a batch.
 *
 * @param {any} result
 */
const errorOfResult = (result) => {
  const code = `${result?.code ?? ""}`;
  // The server uses this code also for a message that the broker may have taken.
  const known = code === "unavailable" ? PublishUnclear : (CLASSES.get(code) ?? APIError);
  return new known(`${result?.detail ?? "the server did not publish the message"}`, code);
};

/** @typedef {Record<string, string | number | boolean>} Pattern a set of filters, such as `{kind: "news"}` */

/**
 * Return a key that is equal for two spellings of one pattern, such as `{page: 3}` and `{page: "3"}`.
 *
 * @param {Pattern} pattern
 * @throws {TypeError} it is not an object, or JSON would leave out one of its filters.
 */
const patternKey = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    // JSON leaves such a filter out, which makes the pattern a wider one.
    if (text === undefined) throw new TypeError(`the filter ${key} is ${typeof value}`);
    // Numbers and booleans are equal to their texts. The server refuses other types.
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};

/**
 * @typedef {object} OutgoingMessage a message to publish
 * @property {Pattern} pattern
 * @property {any} payload a value that JSON can represent, or a `RawJSON`.
 * @property {string} [key] an idempotency key: 1 to 64 visible ASCII characters. The client makes one if there is none.
 */

/** A payload that is JSON text already. Subscribers get exactly this text. */
export class RawJSON {
  /** @param {string} text one JSON value. It is checked when it is published. */
  constructor(text) {
    this.text = `${text}`;
  }
}

/** Return a new idempotency key: 128 random bits. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Return an idempotency key that a header can carry; without one, a new one.
 *
 * @param {string} [key]
 * @throws {APIError} it cannot be sent.
 */
const checkedKey = (key = newKey()) => {
  if (typeof key === "string" && /^[!-~]{1,64}$/.test(key)) return key;
  throw new APIError("an idempotency key has 1 to 64 visible ASCII characters", "bad-request");
};

/**
 * Return the JSON text of a pattern.
 *
 * @param {Pattern} pattern
 * @throws {BadPattern} JSON would change it.
 */
const encodePattern = (pattern) => {
  try {
    patternKey(pattern);
    return JSON.stringify(pattern);
  } catch (cause) {
    throw new BadPattern(/** @type {Error} */ (cause).message, "bad-pattern", 0, { cause });
  }
};

/** @param {any} payload */
const encodePayload = (payload) => {
  if (payload instanceof RawJSON) {
    try {
      JSON.parse(payload.text);
    } catch (cause) {
      throw new APIError(`the payload is not JSON: ${/** @type {Error} */ (cause).message}`, "bad-json", 0, { cause });
    }
    if (/\p{Surrogate}/u.test(payload.text)) throw new APIError("the payload holds a lone surrogate", "bad-json");
    return payload.text;
  }
  let text;
  try {
    text = JSON.stringify(payload);
  } catch (cause) {
    throw new APIError(`the payload cannot be written as JSON: ${/** @type {Error} */ (cause).message}`, "bad-request", 0, { cause });
  }
  if (text === undefined) throw new APIError(`the payload is ${typeof payload}`, "bad-request");
  return text;
};

/**
 * Return the JSON text of a message, without the end of the object.
 *
 * @param {Pattern} pattern
 * @param {any} payload
 * @throws {APIError} it cannot be published.
 */
const encodeMessage = (pattern, payload) => `{"pattern":${encodePattern(pattern)},"payload":${encodePayload(payload)}`;

// Finds out without parsing whether a text may contain a number that a double cannot represent: an integer of 16 digits
// or more, or an exponent of three. It also matches some strings.
const LARGE_NUMBER = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;

/**
 * Parse a JSON text. Each number that a double cannot represent becomes a string of its digits: integers beyond
 * `Number.MAX_SAFE_INTEGER`, and numbers beyond `Number.MAX_VALUE`.
 *
 * @param {string} text
 * @returns {any}
 * @throws {SyntaxError} the text is not JSON.
 */
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (typeof value === "string" || !LARGE_NUMBER.test(text)) return value;
  let inString = false;
  // One escape, quote or number at a time, without recursion: the text may be long and deep.
  return JSON.parse(text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  }));
};

/**
 * @typedef {object} StoredMessage a message that the server keeps
 * @property {any} payload numbers that a double cannot represent are texts, as in a subscription.
 * @property {string} text the payload as it was published.
 * @property {Pattern} pattern what it was published to; its values are texts if the history is that of a wildcard.
 * @property {string} position
 *
 * @typedef {object} History
 * @property {string} id the pattern's id.
 * @property {string} at the position of the newest message.
 * @property {number} first the offset of the oldest message that the server keeps.
 * @property {boolean} [recovered] for `since`: whether all messages after it are still there.
 * @property {boolean} more whether there are more messages: ask again with the position of the last one.
 * @property {StoredMessage[]} messages the oldest first.
 */

/**
 * Return the texts of the members `payload` of the messages: `{…, "messages": [{"payload": …}]}`.
 *
 * @param {string} text valid JSON of this form.
 */
const payloadTexts = (text) => {
  const texts = [];
  let depth = 0;
  let quote = -1; // where the present string began
  let name = "";
  let start = -1; // of the present payload
  // One escape, quote or bracket at a time, without recursion: the text may be long and deep.
  for (const { 0: token, index } of text.matchAll(/\\.|["[\]{},:]/g)) {
    if (quote >= 0) {
      if (token !== '"') continue;
      name = index - quote < 20 ? text.slice(quote + 1, index) : "";
      quote = -1;
    } else if (token === '"') quote = index;
    else if (token === ":") {
      if (depth === 3 && name === "payload") start = index + 1;
    } else {
      if (depth === 3 && start >= 0 && (token === "," || token === "}")) {
        texts.push(text.slice(start, index).trim());
        start = -1;
      }
      if (token === "{" || token === "[") depth++;
      else if (token !== ",") depth--;
    }
  }
  return texts;
};

/**
 * Make a history of the server's answer; undefined if that is not one.
 *
 * @param {any} answer
 * @param {string} text the answer's text.
 * @param {Pattern} pattern what was asked for.
 * @returns {History | undefined}
 */
const historyOf = ({ id, at, first, recovered, more, messages }, text, pattern) => {
  if (!Array.isArray(messages) || typeof at !== "string") return undefined;
  const texts = payloadTexts(text);
  if (texts.length !== messages.length) return undefined;
  return {
    id,
    at,
    first,
    ...(recovered !== undefined && { recovered }),
    more: !!more,
    messages: messages.map((each, n) => ({
      payload: parseExact(texts[n]),
      text: texts[n],
      pattern: each.pattern ?? pattern,
      position: each.at,
    })),
  };
};

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
const send = async (url, request, options) => {
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
