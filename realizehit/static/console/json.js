// Reads, writes and shows patterns and JSON as text.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const LONGEST = 20_000; // characters of a payload that are shown; the rest is cut
const DEEPEST = 32; // levels that are formatted: indentation and the browser's work grow with the depth
const MOST_TOKENS = 2_000; // tokens that are formatted: each of them may become an element of the page

/** Return what is wrong with a JSON text, or an empty text. */
export function problemOf(text) {
  if (!text.trim()) return "write JSON, such as {\"title\": \"hello\"}, 42 or \"text\"";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return error.message.replace(/^JSON\.parse: /, "").replace(/^Unexpected/, "unexpected");
  }
}

/**
 * Read a pattern: JSON, or `kind=news,channel=CNN` with `%2C`, `%3D` and `%25` for the separators. `**` is short for `*=*`.
 *
 * @throws {Error} its message says what is wrong.
 */
export function readPattern(text) {
  if (!text.trim()) throw new Error("write a pattern, such as kind=news,channel=CNN");
  if (text.trimStart().startsWith("{")) {
    const problem = problemOf(text);
    if (problem) throw new Error(`the pattern is not JSON: ${problem}`);
    return JSON.parse(text);
  }
  const pattern = Object.create(null); // no key is special, such as __proto__
  for (const part of text.split(",")) {
    const pair = part.trim() === "**" ? "*=*" : part;
    const at = pair.indexOf("=");
    if (at < 0) throw new Error(`“${pair.trim()}” is not a filter; write key=value`);
    let key, value;
    try {
      [key, value] = [pair.slice(0, at), pair.slice(at + 1)].map((each) => decodeURIComponent(each.trim()));
    } catch {
      throw new Error(`“${pair.trim()}” has a % that no two hex digits follow; write %25`);
    }
    if (!key || !value) throw new Error(`“${pair.trim()}” has an empty ${key ? "value" : "key"}`);
    if (key in pattern) throw new Error(`the key “${key}” occurs twice`);
    pattern[key] = value;
  }
  return pattern;
}

const escaped = (text) => String(text).replace(/[%,=]/g, (character) => encodeURIComponent(character));

/** Write a pattern as `readPattern` reads it. */
export function patternText(pattern) {
  return Object.entries(pattern)
    .map(([key, value]) => `${escaped(key)}=${escaped(value)}`)
    .join(",");
}

/** Return the pattern of a channel, `channel:CNN|kind:news`. */
export function patternOf(channel) {
  return Object.fromEntries(channel.split("|").map((filter) => filter.split(":").map(decodeURIComponent)));
}

/** Return how deeply the lists and objects of a text are nested. */
function depthOf(tokens) {
  let depth = 0;
  let deepest = 0;
  for (const token of tokens) {
    if (token === "{" || token === "[") deepest = Math.max(deepest, ++depth);
    else if (token === "}" || token === "]") depth--;
  }
  return deepest;
}

/**
 * Format a JSON text, token by token: numbers of any size stay as they were written.
 *
 * A text that is long, deep or has many tokens is not formatted.
 *
 * @returns {DocumentFragment} with a `span` for each token that has a colour.
 */
export function pretty(text) {
  const fragment = document.createDocumentFragment();
  if (text.length > LONGEST) {
    fragment.append(`${text.slice(0, LONGEST)}… (${text.length.toLocaleString()} characters)`);
    return fragment;
  }
  const tokens = text.match(TOKEN) ?? [];
  if (tokens.length > MOST_TOKENS || depthOf(tokens) > DEEPEST) {
    fragment.append(text);
    return fragment;
  }
  const flat = text.length <= 60; // short enough for one line
  let depth = 0;
  const line = () => (flat ? " " : `\n${"  ".repeat(depth)}`);
  const put = (token, kind) => {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = token;
    fragment.append(span);
  };
  tokens.forEach((token, at) => {
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      fragment.append(token);
      if (next !== "}" && next !== "]") {
        depth++;
        fragment.append(flat ? "" : line());
      }
    } else if (token === "}" || token === "]") {
      const before = tokens[at - 1];
      if (before !== "{" && before !== "[") {
        depth--;
        fragment.append(flat ? "" : line());
      }
      fragment.append(token);
    } else if (token === ",") fragment.append(token, line());
    else if (token === ":") fragment.append(": ");
    else if (token[0] === '"') put(token, next === ":" ? "key" : "string");
    else put(token, /^[tfn]/.test(token) ? "word" : "digits");
  });
  return fragment;
}
