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
export const parseExact = (text) => {
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
