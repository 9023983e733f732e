import { RealizehitError } from "../error.js";

/**
 * An error of the API client. `code` is the stable code of the server, or the code that the server has for the same mistake;
 * `status` is the HTTP status, 0 if no answer came. The subclasses tell what an error means.
 */
export class APIError extends RealizehitError {
  name = "APIError";

  /**
   * @param {string} message text for people.
   * @param {string} [code]
   * @param {number} [status]
   * @param {{retryAfter?: number, cause?: unknown}} [more]
   */
  constructor(message, code, status, { retryAfter, cause } = {}) {
    super(message, code, status);
    /** The seconds that the server asks the client to wait; undefined if it names none. */
    this.retryAfter = retryAfter;
    if (cause !== undefined) this.cause = cause;
  }
}

/** The pattern breaks a rule. */
export class BadPattern extends APIError {
  name = "BadPattern";
}

/** The API key may not publish to the pattern. */
export class Forbidden extends APIError {
  name = "Forbidden";
}

/** The API key is missing or unknown. */
export class NotAuthenticated extends APIError {
  name = "NotAuthenticated";
}

/** The API key publishes too much. */
export class RateLimited extends APIError {
  name = "RateLimited";
}

/** A payload or a request has too many bytes. */
export class TooLarge extends APIError {
  name = "TooLarge";
}

/** The server or its broker cannot be reached. Nothing was published, so the same call may succeed later. */
export class Unavailable extends APIError {
  name = "Unavailable";
}

/** It is not known whether the message was published: the answer did not arrive, or the server does not know. */
export class PublishUnclear extends APIError {
  name = "PublishUnclear";
}

const CLASSES = new Map(/** @type {[string | number, typeof APIError][]} */ ([
  ["bad-pattern", BadPattern],
  ["wildcard-unsupported", BadPattern],
  ["forbidden", Forbidden],
  ["not-authenticated", NotAuthenticated],
  ["rate-limited", RateLimited],
  ["too-large", TooLarge],
  ["too-many-connections", Unavailable],
  [401, NotAuthenticated],
  [403, Forbidden],
  [413, TooLarge],
  [429, RateLimited],
]));

/**
 * Tell whether an answer leaves open if the message was published. The server sends `Retry-After` with a 503 only if nothing
 * was published. 500, 502 and 504 without a code come from a proxy, or from a server that failed meanwhile.
 *
 * @param {number} status
 * @param {string} code
 * @param {number | undefined} retryAfter
 */
const isUnclear = (status, code, retryAfter) =>
  status === 500 || status === 504 || (status === 502 && !code) || (status === 503 && retryAfter === undefined);

/**
 * Make the error of an answer that refuses a request.
 *
 * @param {number} status
 * @param {any} problem the parsed body; anything but a problem document is ignored.
 * @param {number} [retryAfter] in seconds
 * @param {typeof APIError} [Unclear] the error if it is open whether the server did what was asked.
 */
export const errorOfAnswer = (status, problem, retryAfter, Unclear = PublishUnclear) => {
  const code = typeof problem?.code === "string" ? problem.code : "";
  const text = typeof problem?.detail === "string" ? problem.detail : `the server answered with ${status || "a redirection"}`;
  const unclear = isUnclear(status, code, retryAfter);
  const known = unclear ? Unclear : (CLASSES.get(code) ?? (status === 503 ? Unavailable : CLASSES.get(status)));
  return new (known ?? APIError)(text, code, status, { retryAfter });
};

/**
 * Make the error of one message of a batch.
 *
 * @param {any} result
 */
export const errorOfResult = (result) => {
  const code = `${result?.code ?? ""}`;
  // The server uses this code also for a message that the broker may have taken.
  const known = code === "unavailable" ? PublishUnclear : (CLASSES.get(code) ?? APIError);
  return new known(`${result?.detail ?? "the server did not publish the message"}`, code);
};
