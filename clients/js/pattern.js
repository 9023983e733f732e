/**
 * Patterns and their channels: for programs that talk to the broker themselves, or compare patterns. A client needs none of
 * this: the server does it.
 *
 * The rules are the same in every language: each filter is percent-encoded, the filters are sorted by key and joined with `|`.
 *
 * @license MIT
 * @module
 */

const MAX_FILTERS = 16;
const MAX_KEY = 64; // bytes, encoded
const MAX_VALUE = 256; // bytes, encoded
const MAX_CHANNEL = 1024; // bytes
const ROTATIONS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]]; // of MD5, bits
// The syntax of this file is ES2018: tools that do not know `exports` read it as it is.
const is64Bit = (/** @type {bigint} */ value) => value >= -BigInt("9223372036854775808") && value < BigInt("18446744073709551616");

/** A pattern that breaks a rule; its text names the filter and the bound. */
export class PatternError extends Error {
  /**
   * @param {string} message
   * @param {"bad-pattern" | "wildcard-unsupported"} [code]
   */
  constructor(message, code = "bad-pattern") {
    super(message);
    this.name = "PatternError";
    this.code = code;
  }
}

/** @param {unknown} value */
const quoted = (value) => {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
};

/**
 * Percent-encode everything outside RFC 3986's unreserved characters.
 *
 * @param {string} text
 * @param {string} what
 * @param {number} most
 */
const encoded = (text, what, most) => {
  if (!text) throw new PatternError(`${what} is empty`);
  let result;
  try {
    result = encodeURIComponent(text);
  } catch {
    throw new PatternError(`${what} ${quoted(text)} holds a lone surrogate`);
  }
  result = result.replace(/[!*'()]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
  if (result.length > most) throw new PatternError(`${what} ${quoted(text)} has ${result.length} bytes, at most ${most}`);
  return result;
};

/**
 * @param {string} key
 * @param {unknown} value
 */
const textOf = (key, value) => {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value))) return String(value);
  // Beyond 64 bits, as every JSON reader does: the nearest double.
  if (typeof value === "bigint") return String(is64Bit(value) ? value : Number(value));
  throw new PatternError(`the value of ${quoted(key)} is ${quoted(value)}; a value is a text, a finite number, true or false`);
};

/**
 * Return a pattern's canonical text. It is also the name of the channel at the broker.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @param {{wildcard?: boolean}} [options] wildcard: whether it may contain the reserved `*`, as a subscription may.
 * @throws {PatternError} it breaks a rule.
 */
export function channel(pattern, { wildcard = false } = {}) {
  if (typeof pattern !== "object" || pattern === null || Array.isArray(pattern)) {
    throw new PatternError(`a pattern is an object of filters, not ${quoted(pattern)}`);
  }
  const filters = Object.entries(pattern);
  if (!filters.length) throw new PatternError("the pattern is empty");
  if (filters.length > MAX_FILTERS) {
    throw new PatternError(`the pattern has ${filters.length} filters, at most ${MAX_FILTERS}`);
  }
  const parts = filters.map(([key, value]) => {
    const any = value === "*";
    if (key === "*" && !any) throw new PatternError('the key "*" takes only the value "*"');
    if (any && !wildcard) throw new PatternError(`the filter ${quoted(key)} is the reserved "*"`, "wildcard-unsupported");
    return [
      key === "*" ? key : encoded(key, "the key", MAX_KEY),
      any ? "*" : encoded(textOf(key, value), `the value of ${quoted(key)}`, MAX_VALUE),
    ];
  });
  // Encoded keys are ASCII, so that the order of UTF-16 is that of bytes.
  parts.sort(([one], [other]) => (one < other ? -1 : 1));
  const text = parts.map((part) => part.join(":")).join("|");
  if (text.length > MAX_CHANNEL) throw new PatternError(`the channel has ${text.length} bytes, at most ${MAX_CHANNEL}`);
  return text;
}

/**
 * Return the MD5 of an ASCII text (RFC 1321), as 32 hex digits. Neither browsers nor Deno have it.
 *
 * @param {string} text
 */
const md5 = (text) => {
  const length = (((text.length + 8) >> 6) + 1) * 16;
  const words = new Uint32Array(length);
  for (let at = 0; at < text.length; at++) words[at >> 2] |= text.charCodeAt(at) << ((at & 3) * 8);
  words[text.length >> 2] |= 0x80 << ((text.length & 3) * 8);
  words[length - 2] = text.length * 8;
  const state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  for (let block = 0; block < length; block += 16) {
    let [a, b, c, d] = state;
    for (let step = 0; step < 64; step++) {
      const round = step >> 4;
      const mixed = [(b & c) | (~b & d), (b & d) | (c & ~d), b ^ c ^ d, c ^ (b | ~d)][round];
      const word = words[block + (([1, 5, 3, 7][round] * step + [0, 1, 5, 0][round]) & 15)];
      const sum = (a + mixed + word + Math.floor(Math.abs(Math.sin(step + 1)) * 2 ** 32)) | 0;
      const shift = ROTATIONS[round][step & 3];
      [a, d, c, b] = [d, c, b, (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0];
    }
    [a, b, c, d].forEach((value, at) => (state[at] = (state[at] + value) | 0));
  }
  const bytes = new Uint8Array(16);
  state.forEach((value, at) => new DataView(bytes.buffer).setInt32(at * 4, value, true));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
};

/**
 * Return a pattern's id, the label of its payloads on the wire: the first 8 hex digits of the MD5 of its channel. Two patterns
 * can have one id.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function id(pattern) {
  return md5(channel(pattern, { wildcard: true })).slice(0, 8);
}

const RESERVED_KEY = "realizehit"; // the messages of servers about themselves match no `*`

/**
 * Split a channel, or a shape, into its filters.
 *
 * @param {string} text
 * @returns {[string, string][]}
 */
const split = (text) =>
  text.split("|").map((filter) => {
    const colon = filter.indexOf(":");
    return [filter.slice(0, colon), filter.slice(colon + 1)];
  });

/**
 * Return the shape of a subscription: its channel with `=` for each fixed value. Subscriptions of one shape differ only in
 * these values, and a publication matches at most one of them.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function shape(pattern) {
  const filters = split(channel(pattern, { wildcard: true }));
  return filters.map(([key, value]) => `${key}:${value === "*" ? "*" : "="}`).join("|");
}

/**
 * Return the channel of the wildcard subscription of a shape that a publication matches. It is `null` if the publication lacks
 * a key of the shape, or has a further key and the shape has no `*:*`.
 *
 * @param {string} published the channel that is published to, as `channel` returns it.
 * @param {string} shape as `shape` returns it for a wildcard subscription.
 */
export function project(published, shape) {
  const values = new Map(split(published));
  if (values.has(RESERVED_KEY)) return null;
  const parts = [];
  let further = values.size;
  let open = false;
  for (const [key, value] of split(shape)) {
    const own = values.get(key);
    if (key === "*") open = true;
    else if (own === undefined) return null;
    else further -= 1;
    parts.push(`${key}:${value === "*" ? "*" : own}`);
  }
  const text = parts.join("|");
  return (further && !open) || text.length > MAX_CHANNEL ? null : text;
}

/**
 * Return whether a subscription gets what is published to a pattern. Without a `*`, it gets only its own pattern.
 *
 * @param {Record<string, string | number | bigint | boolean>} subscription
 * @param {Record<string, string | number | bigint | boolean>} publication
 * @throws {PatternError} one of them breaks a rule, or `publication` contains a `*`.
 */
export function matches(subscription, publication) {
  const own = channel(subscription, { wildcard: true });
  const published = channel(publication);
  return Object.values(subscription).includes("*") ? project(published, shape(subscription)) === own : own === published;
}
