/**
 * Patterns and their channels: for those who talk to the broker themselves, or want to compare patterns. A client needs
 * none of this, the server does it.
 *
 * The rules are those of every realizehit: each filter is percent-encoded, the filters are sorted by key, joined with `|`.
 *
 * @license MIT
 * @module
 */

const MAX_FILTERS = 16;
const MAX_KEY = 64; // bytes, encoded
const MAX_VALUE = 256; // bytes, encoded
const MAX_CHANNEL = 1024; // bytes
// No newer syntax than that of ES2018 in this file: tools that do not know `exports` read it as it is.
const is64Bit = (/** @type {bigint} */ value) => value >= -BigInt("9223372036854775808") && value < BigInt("18446744073709551616");

/** A pattern that breaks a rule; the text names the filter and the bound. */
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
const shown = (value) => {
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
    throw new PatternError(`${what} ${shown(text)} holds a lone surrogate`);
  }
  result = result.replace(/[!*'()]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
  if (result.length > most) throw new PatternError(`${what} ${shown(text)} has ${result.length} bytes, at most ${most}`);
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
  throw new PatternError(`the value of ${shown(key)} is ${shown(value)}; a value is a text, a finite number, true or false`);
};

/**
 * Return a pattern's canonical text, which is the channel at the broker.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @param {{wildcard?: boolean}} [options] wildcard: whether the reserved `*` may stand in it, as in a subscription.
 * @throws {PatternError} it breaks a rule.
 */
export function channel(pattern, { wildcard = false } = {}) {
  if (typeof pattern !== "object" || pattern === null || Array.isArray(pattern)) {
    throw new PatternError(`a pattern is an object of filters, not ${shown(pattern)}`);
  }
  const filters = Object.entries(pattern);
  if (!filters.length) throw new PatternError("the pattern is empty");
  if (filters.length > MAX_FILTERS) {
    throw new PatternError(`the pattern has ${filters.length} filters, at most ${MAX_FILTERS}`);
  }
  const parts = filters.map(([key, value]) => {
    const any = value === "*";
    if (key === "*" && !any) throw new PatternError('the key "*" takes only the value "*"');
    if (any && !wildcard) throw new PatternError(`the filter ${shown(key)} is the reserved "*"`, "wildcard-unsupported");
    return [
      key === "*" ? key : encoded(key, "the key", MAX_KEY),
      any ? "*" : encoded(textOf(key, value), `the value of ${shown(key)}`, MAX_VALUE),
    ];
  });
  // Encoded keys are ASCII, so that the order of UTF-16 is that of bytes.
  parts.sort(([one], [other]) => (one < other ? -1 : 1));
  const text = parts.map((part) => part.join(":")).join("|");
  if (text.length > MAX_CHANNEL) throw new PatternError(`the channel has ${text.length} bytes, at most ${MAX_CHANNEL}`);
  return text;
}

const RESERVED_KEY = "realizehit"; // what servers publish for themselves matches no star

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
 * Return the shape of a subscription: its channel with `=` for each fixed value. Subscriptions of one shape differ in these
 * values alone, and a publication matches at most one of them.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function shape(pattern) {
  const filters = split(channel(pattern, { wildcard: true }));
  return filters.map(([key, value]) => `${key}:${value === "*" ? "*" : "="}`).join("|");
}

/**
 * Return the channel of the one wildcard subscription of a shape that a publication matches, or `null` where there is none:
 * the publication lacks a key of the shape, or has a further one that the shape does not leave open.
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
 * Tell whether a subscription gets what is published to a pattern. Without a star, that is the same pattern alone.
 *
 * @param {Record<string, string | number | bigint | boolean>} subscription
 * @param {Record<string, string | number | bigint | boolean>} publication
 * @throws {PatternError} one of them breaks a rule, or `publication` has a star.
 */
export function matches(subscription, publication) {
  const own = channel(subscription, { wildcard: true });
  const published = channel(publication);
  return Object.values(subscription).includes("*") ? project(published, shape(subscription)) === own : own === published;
}
