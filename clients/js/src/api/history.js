import { parseExact } from "../json.js";
/** @import { Pattern } from "../pattern_key.js" */

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
export const historyOf = ({ id, at, first, recovered, more, messages }, text, pattern) => {
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
