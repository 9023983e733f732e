/**
 * Parse what a server sends besides payloads. A text that is no JSON object, which this client does not know, has no members.
 *
 * @param {string} text
 */
export const parseObject = (text) => {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
};
