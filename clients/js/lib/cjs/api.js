/*! realizehit 0.1.0, MIT; made of api.js, 51e9e0e4e1143f00 */
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __typeError = (msg) => {
  throw TypeError(msg);
};
var __defNormalProp = (obj, key, value) => key in obj ? __defProp(obj, key, { enumerable: true, configurable: true, writable: true, value }) : obj[key] = value;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);
var __publicField = (obj, key, value) => __defNormalProp(obj, typeof key !== "symbol" ? key + "" : key, value);
var __accessCheck = (obj, member, msg) => member.has(obj) || __typeError("Cannot " + msg);
var __privateGet = (obj, member, getter) => (__accessCheck(obj, member, "read from private field"), getter ? getter.call(obj) : member.get(obj));
var __privateAdd = (obj, member, value) => member.has(obj) ? __typeError("Cannot add the same private member more than once") : member instanceof WeakSet ? member.add(obj) : member.set(obj, value);
var __privateSet = (obj, member, value, setter) => (__accessCheck(obj, member, "write to private field"), setter ? setter.call(obj, value) : member.set(obj, value), value);
var __privateMethod = (obj, member, method) => (__accessCheck(obj, member, "access private method"), method);
var stdin_exports = {};
__export(stdin_exports, {
  APIClient: () => APIClient,
  APIError: () => APIError,
  BadPattern: () => BadPattern,
  Forbidden: () => Forbidden,
  NotAuthenticated: () => NotAuthenticated,
  PublishUnclear: () => PublishUnclear,
  RateLimited: () => RateLimited,
  RawJSON: () => RawJSON,
  RealizehitError: () => import_realizehit.RealizehitError,
  TooLarge: () => TooLarge,
  Unavailable: () => Unavailable
});
module.exports = __toCommonJS(stdin_exports);
var import_realizehit = require("./realizehit.js");
var _url, _headers, _options, _APIClient_instances, publishBatch_fn, post_fn;
class APIError extends import_realizehit.RealizehitError {
  /**
   * @param {string} message text for people.
   * @param {string} [code]
   * @param {number} [status]
   * @param {{retryAfter?: number, cause?: unknown}} [more]
   */
  constructor(message, code, status, { retryAfter, cause } = {}) {
    super(message, code, status);
    __publicField(this, "name", "APIError");
    this.retryAfter = retryAfter;
    if (cause !== void 0) this.cause = cause;
  }
}
class BadPattern extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "BadPattern");
  }
}
class Forbidden extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "Forbidden");
  }
}
class NotAuthenticated extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "NotAuthenticated");
  }
}
class RateLimited extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "RateLimited");
  }
}
class TooLarge extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "TooLarge");
  }
}
class Unavailable extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "Unavailable");
  }
}
class PublishUnclear extends APIError {
  constructor() {
    super(...arguments);
    __publicField(this, "name", "PublishUnclear");
  }
}
const CLASSES = /* @__PURE__ */ new Map(
  /** @type {[string | number, typeof APIError][]} */
  [
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
    [429, RateLimited]
  ]
);
const isUnclear = (status, code, retryAfter) => status === 500 || status === 504 || status === 502 && !code || status === 503 && retryAfter === void 0;
const errorOfAnswer = (status, problem, retryAfter, Unclear = PublishUnclear) => {
  var _a;
  const code = typeof (problem == null ? void 0 : problem.code) === "string" ? problem.code : "";
  const text = typeof (problem == null ? void 0 : problem.detail) === "string" ? problem.detail : `the server answered with ${status || "a redirection"}`;
  const unclear = isUnclear(status, code, retryAfter);
  const known = unclear ? Unclear : (_a = CLASSES.get(code)) != null ? _a : status === 503 ? Unavailable : CLASSES.get(status);
  return new (known != null ? known : APIError)(text, code, status, { retryAfter });
};
const errorOfResult = (result) => {
  var _a, _b, _c;
  const code = `${(_a = result == null ? void 0 : result.code) != null ? _a : ""}`;
  const known = code === "unavailable" ? PublishUnclear : (_b = CLASSES.get(code)) != null ? _b : APIError;
  return new known(`${(_c = result == null ? void 0 : result.detail) != null ? _c : "the server did not publish the message"}`, code);
};
const patternKey = (pattern) => {
  if (Object(pattern) !== pattern) throw new TypeError("a pattern is an object");
  const filters = Object.entries(pattern).map(([key, value]) => {
    const text = JSON.stringify(value);
    if (text === void 0) throw new TypeError(`the filter ${key} is ${typeof value}`);
    return JSON.stringify(key) + (/^[-\dtf]/.test(text) ? `"${text}"` : text);
  });
  return filters.sort().join();
};
class RawJSON {
  /** @param {string} text one JSON value. It is checked when it is published. */
  constructor(text) {
    this.text = `${text}`;
  }
}
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const checkedKey = (key = newKey()) => {
  if (typeof key === "string" && /^[!-~]{1,64}$/.test(key)) return key;
  throw new APIError("an idempotency key has 1 to 64 visible ASCII characters", "bad-request");
};
const encodePattern = (pattern) => {
  try {
    patternKey(pattern);
    return JSON.stringify(pattern);
  } catch (cause) {
    throw new BadPattern(
      /** @type {Error} */
      cause.message,
      "bad-pattern",
      0,
      { cause }
    );
  }
};
const encodePayload = (payload) => {
  if (payload instanceof RawJSON) {
    try {
      JSON.parse(payload.text);
    } catch (cause) {
      throw new APIError(`the payload is not JSON: ${/** @type {Error} */
      cause.message}`, "bad-json", 0, { cause });
    }
    if (/\p{Surrogate}/u.test(payload.text)) throw new APIError("the payload holds a lone surrogate", "bad-json");
    return payload.text;
  }
  let text;
  try {
    text = JSON.stringify(payload);
  } catch (cause) {
    throw new APIError(`the payload cannot be written as JSON: ${/** @type {Error} */
    cause.message}`, "bad-request", 0, { cause });
  }
  if (text === void 0) throw new APIError(`the payload is ${typeof payload}`, "bad-request");
  return text;
};
const encodeMessage = (pattern, payload) => `{"pattern":${encodePattern(pattern)},"payload":${encodePayload(payload)}`;
const LARGE_NUMBER = /(^|[\s[,:-])\d{16}|\de\+?\d{3,}(?=[\s,\]}]|$)/i;
const parseExact = (text) => {
  const value = JSON.parse(text);
  if (typeof value === "string" || !LARGE_NUMBER.test(text)) return value;
  let inString = false;
  return JSON.parse(text.replace(/\\.|"|-?\d[\d.e+-]*/gi, (token) => {
    if (token === '"') inString = !inString;
    const exact = /[.e]/i.test(token) ? isFinite(+token) : Number.isSafeInteger(+token);
    return inString || exact || !/\d$/.test(token) ? token : `"${token}"`;
  }));
};
const payloadTexts = (text) => {
  const texts = [];
  let depth = 0;
  let quote = -1;
  let name = "";
  let start = -1;
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
const historyOf = ({ id, at, first, recovered, more, messages }, text, pattern) => {
  if (!Array.isArray(messages) || typeof at !== "string") return void 0;
  const texts = payloadTexts(text);
  if (texts.length !== messages.length) return void 0;
  return {
    id,
    at,
    first,
    ...recovered !== void 0 && { recovered },
    more: !!more,
    messages: messages.map((each, n) => {
      var _a;
      return {
        payload: parseExact(texts[n]),
        text: texts[n],
        pattern: (_a = each.pattern) != null ? _a : pattern,
        position: each.at
      };
    })
  };
};
const TRIES = 3;
const MAX_BACKOFF = 5e3;
const secondsOf = (text) => {
  if (!text) return void 0;
  const seconds = /^\d+$/.test(text) ? Number(text) : Math.max((Date.parse(text) - Date.now()) / 1e3, 0);
  return Number.isNaN(seconds) ? void 0 : seconds;
};
const couldNotConnect = ({ cause }) => {
  var _a, _b, _c;
  return ["connect", "getaddrinfo"].includes((_c = (_b = (_a = cause == null ? void 0 : cause.errors) == null ? void 0 : _a[0]) != null ? _b : cause) == null ? void 0 : _c.syscall) || (cause == null ? void 0 : cause.code) === "UND_ERR_CONNECT_TIMEOUT";
};
const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch (e) {
    return null;
  }
};
const exchange = async (url, request, { fetch, timeout }) => {
  const Unclear = request.method === "POST" ? PublishUnclear : Unavailable;
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), timeout);
  try {
    const response = await fetch(url, { ...request, redirect: "manual", signal: aborter.signal });
    const text = await response.text();
    const answer = parsed(text);
    if (!response.ok) throw errorOfAnswer(response.status, answer, secondsOf(response.headers.get("Retry-After")), Unclear);
    if (Object(answer) === answer) return { answer, text };
    throw new Unclear("the answer is not understood", "", response.status);
  } catch (cause) {
    if (cause instanceof APIError) throw cause;
    if (aborter.signal.aborted) throw new Unclear(`no answer within ${timeout} ms`, "unavailable", 0, { cause });
    const { message, cause: reason } = (
      /** @type {Error} */
      cause
    );
    const text = (
      /** @type {Error | undefined} */
      (reason == null ? void 0 : reason.message) || message
    );
    if (couldNotConnect(cause)) throw new Unavailable(`the server cannot be reached: ${text}`, "unavailable", 0, { cause });
    throw new Unclear(`the answer did not arrive: ${text}`, "unavailable", 0, { cause });
  } finally {
    clearTimeout(timer);
  }
};
const send = async (url, request, options) => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await exchange(url, request, options);
    } catch (error) {
      const { retryAfter = 0, status } = (
        /** @type {APIError} */
        error
      );
      const unclear = error instanceof PublishUnclear && [0, 200, 503].includes(status);
      const repeatable = error instanceof RateLimited || error instanceof Unavailable || options.retryUnclear && unclear;
      if (!repeatable || attempt === TRIES || retryAfter * 1e3 > options.timeout) throw error;
      const jitter = Math.random() * Math.min(MAX_BACKOFF, options.backoffBase * 2 ** (attempt - 1));
      await new Promise((resolve) => setTimeout(resolve, retryAfter * 1e3 + jitter));
    }
  }
};
const BATCH_MESSAGES = 1e4;
const BATCH_BYTES = 4 * 2 ** 20;
const isResult = (result) => typeof (result == null ? void 0 : result.id) === "string" && typeof result.nodes === "number";
class APIClient {
  /**
   * @param {string | URL} url the API's address with its prefix: `https://host/`, or relative to the page.
   * @param {APIOptions} [options]
   * @throws {TypeError} the address or the key cannot be used; the message does not contain the key.
   */
  constructor(url, { key, timeout, backoffBase, retryUnclear = true, fetch } = {}) {
    __privateAdd(this, _APIClient_instances);
    __privateAdd(this, _url);
    __privateAdd(this, _headers);
    /** @type {RequestOptions} */
    __privateAdd(this, _options);
    var _a;
    __privateSet(this, _url, new URL(url, (_a = globalThis.location) == null ? void 0 : _a.href));
    if (!/^https?:$/.test(__privateGet(this, _url).protocol)) throw new TypeError("the address of the API does not begin with http:// or https://");
    if (__privateGet(this, _url).username || __privateGet(this, _url).password) throw new TypeError("the address of the API holds a user name or password");
    if (key !== void 0 && !/^[!-~]+$/.test(key)) throw new TypeError("the API key is not visible ASCII characters");
    __privateGet(this, _url).pathname = __privateGet(this, _url).pathname.replace(/\/?$/, "/");
    __privateSet(this, _headers, { "Content-Type": "application/json", ...key && { Authorization: `Bearer ${key}` } });
    __privateSet(this, _options, {
      fetch: fetch != null ? fetch : ((url2, request) => globalThis.fetch(url2, request)),
      timeout: Number(timeout) > 0 ? Math.min(Number(timeout), 2 ** 31 - 1) : 1e4,
      // what a timer can wait
      backoffBase: Number(backoffBase) >= 0 ? Number(backoffBase) : 250,
      retryUnclear
    });
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
    const headers = { ...__privateGet(this, _headers), "Idempotency-Key": checkedKey(key) };
    const result = await __privateMethod(this, _APIClient_instances, post_fn).call(this, __privateGet(this, _url), headers, `${encodeMessage(pattern, payload)}}`);
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
    const outcomes = [];
    let batch = [];
    let bytes = 0;
    let failed = false;
    const flush = async () => {
      if (batch.length && !failed) failed = await __privateMethod(this, _APIClient_instances, publishBatch_fn).call(this, batch, outcomes);
      else for (const { at: at2 } of batch) outcomes[at2] = { error: new Unavailable("not sent, because an earlier batch failed", "unavailable") };
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
        const size = encoder.encode(text).length + 1;
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
    const url = new URL("history", __privateGet(this, _url));
    url.searchParams.set("pat", encodePattern(pattern));
    for (const [name, value] of Object.entries({ last, since, limit })) if (value !== void 0) url.searchParams.set(name, `${value}`);
    const { "Content-Type": _, ...headers } = __privateGet(this, _headers);
    const { answer, text } = await send(url, { method: "GET", headers }, __privateGet(this, _options));
    const history = historyOf(answer, text, pattern);
    if (!history) throw new APIError("the answer is not a history", "", 200);
    return history;
  }
}
_url = new WeakMap();
_headers = new WeakMap();
_options = new WeakMap();
_APIClient_instances = new WeakSet();
publishBatch_fn = async function(batch, outcomes) {
  const body = `{"messages":[${batch.map(({ text }) => text).join()}]}`;
  try {
    const { results } = await __privateMethod(this, _APIClient_instances, post_fn).call(this, new URL("batch", __privateGet(this, _url)), __privateGet(this, _headers), body);
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
};
post_fn = async function(url, headers, body) {
  return (await send(url, { method: "POST", headers, body }, __privateGet(this, _options))).answer;
};
