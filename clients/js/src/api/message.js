import { patternKey } from "../pattern_key.js";
import { APIError, BadPattern } from "./errors.js";
/** @import { Pattern } from "../pattern_key.js" */

/**
 * @typedef {object} OutgoingMessage a message to publish
 * @property {Pattern} pattern
 * @property {any} payload a value that JSON can represent, or a `RawJSON`.
 * @property {string} [key] an idempotency key: 1 to 64 visible ASCII characters. The client makes one if there is none.
 */

/** A payload that is JSON text already. Subscribers get exactly this text. */
export class RawJSON {
  /** @param {string} text one JSON value. It is checked when it is published. */
  constructor(text) {
    this.text = `${text}`;
  }
}

/** Return a new idempotency key: 128 random bits. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Return an idempotency key that a header can carry; without one, a new one.
 *
 * @param {string} [key]
 * @throws {APIError} it cannot be sent.
 */
export const checkedKey = (key = newKey()) => {
  if (typeof key === "string" && /^[!-~]{1,64}$/.test(key)) return key;
  throw new APIError("an idempotency key has 1 to 64 visible ASCII characters", "bad-request");
};

/**
 * Return the JSON text of a pattern.
 *
 * @param {Pattern} pattern
 * @throws {BadPattern} JSON would change it.
 */
export const encodePattern = (pattern) => {
  try {
    patternKey(pattern);
    return JSON.stringify(pattern);
  } catch (cause) {
    throw new BadPattern(/** @type {Error} */ (cause).message, "bad-pattern", 0, { cause });
  }
};

/** @param {any} payload */
const encodePayload = (payload) => {
  if (payload instanceof RawJSON) {
    try {
      JSON.parse(payload.text);
    } catch (cause) {
      throw new APIError(`the payload is not JSON: ${/** @type {Error} */ (cause).message}`, "bad-json", 0, { cause });
    }
    if (/\p{Surrogate}/u.test(payload.text)) throw new APIError("the payload holds a lone surrogate", "bad-json");
    return payload.text;
  }
  let text;
  try {
    text = JSON.stringify(payload);
  } catch (cause) {
    throw new APIError(`the payload cannot be written as JSON: ${/** @type {Error} */ (cause).message}`, "bad-request", 0, { cause });
  }
  if (text === undefined) throw new APIError(`the payload is ${typeof payload}`, "bad-request");
  return text;
};

/**
 * Return the JSON text of a message, without the end of the object.
 *
 * @param {Pattern} pattern
 * @param {any} payload
 * @throws {APIError} it cannot be published.
 */
export const encodeMessage = (pattern, payload) => `{"pattern":${encodePattern(pattern)},"payload":${encodePayload(payload)}`;
