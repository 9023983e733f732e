/*! realizehit 0.1.0, MIT; made of pattern.js, f6e48c1e1b9a2524 */
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
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
var stdin_exports = {};
__export(stdin_exports, {
  PatternError: () => PatternError,
  channel: () => channel,
  id: () => id,
  matches: () => matches,
  project: () => project,
  shape: () => shape
});
module.exports = __toCommonJS(stdin_exports);
const MAX_FILTERS = 16;
const MAX_KEY = 64;
const MAX_VALUE = 256;
const MAX_CHANNEL = 1024;
const ROTATIONS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
const is64Bit = (value) => value >= -BigInt("9223372036854775808") && value < BigInt("18446744073709551616");
class PatternError extends Error {
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
const quoted = (value) => {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
};
const encoded = (text, what, most) => {
  if (!text) throw new PatternError(`${what} is empty`);
  let result;
  try {
    result = encodeURIComponent(text);
  } catch (e) {
    throw new PatternError(`${what} ${quoted(text)} holds a lone surrogate`);
  }
  result = result.replace(/[!*'()]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
  if (result.length > most) throw new PatternError(`${what} ${quoted(text)} has ${result.length} bytes, at most ${most}`);
  return result;
};
const textOf = (key, value) => {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || typeof value === "number" && Number.isFinite(value)) return String(value);
  if (typeof value === "bigint") return String(is64Bit(value) ? value : Number(value));
  throw new PatternError(`the value of ${quoted(key)} is ${quoted(value)}; a value is a text, a finite number, true or false`);
};
function channel(pattern, { wildcard = false } = {}) {
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
      any ? "*" : encoded(textOf(key, value), `the value of ${quoted(key)}`, MAX_VALUE)
    ];
  });
  parts.sort(([one], [other]) => one < other ? -1 : 1);
  const text = parts.map((part) => part.join(":")).join("|");
  if (text.length > MAX_CHANNEL) throw new PatternError(`the channel has ${text.length} bytes, at most ${MAX_CHANNEL}`);
  return text;
}
const md5 = (text) => {
  const length = ((text.length + 8 >> 6) + 1) * 16;
  const words = new Uint32Array(length);
  for (let at = 0; at < text.length; at++) words[at >> 2] |= text.charCodeAt(at) << (at & 3) * 8;
  words[text.length >> 2] |= 128 << (text.length & 3) * 8;
  words[length - 2] = text.length * 8;
  const state = [1732584193, 4023233417, 2562383102, 271733878];
  for (let block = 0; block < length; block += 16) {
    let [a, b, c, d] = state;
    for (let step = 0; step < 64; step++) {
      const round = step >> 4;
      const mixed = [b & c | ~b & d, b & d | c & ~d, b ^ c ^ d, c ^ (b | ~d)][round];
      const word = words[block + ([1, 5, 3, 7][round] * step + [0, 1, 5, 0][round] & 15)];
      const sum = a + mixed + word + Math.floor(Math.abs(Math.sin(step + 1)) * 2 ** 32) | 0;
      const shift = ROTATIONS[round][step & 3];
      [a, d, c, b] = [d, c, b, b + (sum << shift | sum >>> 32 - shift) | 0];
    }
    [a, b, c, d].forEach((value, at) => state[at] = state[at] + value | 0);
  }
  const bytes = new Uint8Array(16);
  state.forEach((value, at) => new DataView(bytes.buffer).setInt32(at * 4, value, true));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
};
function id(pattern) {
  return md5(channel(pattern, { wildcard: true })).slice(0, 8);
}
const RESERVED_KEY = "realizehit";
const split = (text) => text.split("|").map((filter) => {
  const colon = filter.indexOf(":");
  return [filter.slice(0, colon), filter.slice(colon + 1)];
});
function shape(pattern) {
  const filters = split(channel(pattern, { wildcard: true }));
  return filters.map(([key, value]) => `${key}:${value === "*" ? "*" : "="}`).join("|");
}
function project(published, shape2) {
  const values = new Map(split(published));
  if (values.has(RESERVED_KEY)) return null;
  const parts = [];
  let further = values.size;
  let open = false;
  for (const [key, value] of split(shape2)) {
    const own = values.get(key);
    if (key === "*") open = true;
    else if (own === void 0) return null;
    else further -= 1;
    parts.push(`${key}:${value === "*" ? "*" : own}`);
  }
  const text = parts.join("|");
  return further && !open || text.length > MAX_CHANNEL ? null : text;
}
function matches(subscription, publication) {
  const own = channel(subscription, { wildcard: true });
  const published = channel(publication);
  return Object.values(subscription).includes("*") ? project(published, shape(subscription)) === own : own === published;
}
