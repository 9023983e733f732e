/*! realizehit 0.1.0, MIT; made of pattern.js, 39f619c29124757f */
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
  matches: () => matches,
  project: () => project,
  shape: () => shape
});
module.exports = __toCommonJS(stdin_exports);
const MAX_FILTERS = 16;
const MAX_KEY = 64;
const MAX_VALUE = 256;
const MAX_CHANNEL = 1024;
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
const shown = (value) => {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
};
const encoded = (text, what, most) => {
  if (!text) throw new PatternError(`${what} is empty`);
  let result;
  try {
    result = encodeURIComponent(text);
  } catch (e) {
    throw new PatternError(`${what} ${shown(text)} holds a lone surrogate`);
  }
  result = result.replace(/[!*'()]/g, (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`);
  if (result.length > most) throw new PatternError(`${what} ${shown(text)} has ${result.length} bytes, at most ${most}`);
  return result;
};
const textOf = (key, value) => {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || typeof value === "number" && Number.isFinite(value)) return String(value);
  if (typeof value === "bigint") return String(is64Bit(value) ? value : Number(value));
  throw new PatternError(`the value of ${shown(key)} is ${shown(value)}; a value is a text, a finite number, true or false`);
};
function channel(pattern, { wildcard = false } = {}) {
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
      any ? "*" : encoded(textOf(key, value), `the value of ${shown(key)}`, MAX_VALUE)
    ];
  });
  parts.sort(([one], [other]) => one < other ? -1 : 1);
  const text = parts.map((part) => part.join(":")).join("|");
  if (text.length > MAX_CHANNEL) throw new PatternError(`the channel has ${text.length} bytes, at most ${MAX_CHANNEL}`);
  return text;
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
