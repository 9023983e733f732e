/** @typedef {Record<string, string | number | boolean>} Pattern a set of filters, such as `{kind: "news"}` */

/**
 * Return a key that is equal for two spellings of one pattern, such as `{page: 3}` and `{page: "3"}`.
 *
 * @param {Pattern} pattern
 * @throws {TypeError} it is not an object, or JSON would leave out one of its filters.
 */
export const patternKey = (pattern) => {
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
