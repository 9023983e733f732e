/*! realizehit 0.1.0, MIT; made of api.js, 51e9e0e4e1143f00 */
export { RealizehitError };
/**
 * An error of the API client. `code` is the stable code of the server, or the code that the server has for the same mistake;
 * `status` is the HTTP status, 0 if no answer came. The subclasses tell what an error means.
 */
export class APIError extends RealizehitError {
    /**
     * @param {string} message text for people.
     * @param {string} [code]
     * @param {number} [status]
     * @param {{retryAfter?: number, cause?: unknown}} [more]
     */
    constructor(message: string, code?: string, status?: number, { retryAfter, cause }?: {
        retryAfter?: number;
        cause?: unknown;
    });
    /** The seconds that the server asks the client to wait; undefined if it names none. */
    retryAfter: number | undefined;
    cause: unknown;
}
/** The pattern breaks a rule. */
export class BadPattern extends APIError {
}
/** The API key may not publish to the pattern. */
export class Forbidden extends APIError {
}
/** The API key is missing or unknown. */
export class NotAuthenticated extends APIError {
}
/** The API key publishes too much. */
export class RateLimited extends APIError {
}
/** A payload or a request has too many bytes. */
export class TooLarge extends APIError {
}
/** The server or its broker cannot be reached. Nothing was published, so the same call may succeed later. */
export class Unavailable extends APIError {
}
/** It is not known whether the message was published: the answer did not arrive, or the server does not know. */
export class PublishUnclear extends APIError {
}
/**
 * @typedef {object} OutgoingMessage a message to publish
 * @property {Pattern} pattern
 * @property {any} payload a value that JSON can represent, or a `RawJSON`.
 * @property {string} [key] an idempotency key: 1 to 64 visible ASCII characters. The client makes one if there is none.
 */
/** A payload that is JSON text already. Subscribers get exactly this text. */
export class RawJSON {
    /** @param {string} text one JSON value. It is checked when it is published. */
    constructor(text: string);
    text: string;
}
/**
 * Publish over HTTP, and read the history.
 *
 *     const api = new APIClient("https://example.org/", { key: process.env.REALIZEHIT_KEY });
 *     const { nodes } = await api.publish({ kind: "news" }, { title: "hello" });
 *
 * A request is repeated, three tries in all, if the message was certainly not published: no connection could be made, or the server
 * answered 429, or 503 with `Retry-After`. Every message has an idempotency key, which stays the same in all tries.
 */
export class APIClient {
    /**
     * @param {string | URL} url the API's address with its prefix: `https://host/`, or relative to the page.
     * @param {APIOptions} [options]
     * @throws {TypeError} the address or the key cannot be used; the message does not contain the key.
     */
    constructor(url: string | URL, { key, timeout, backoffBase, retryUnclear, fetch }?: APIOptions);
    /**
     * Publish one message.
     *
     * @param {Pattern} pattern
     * @param {any} payload a value that JSON can represent, or a `RawJSON`.
     * @param {{key?: string}} [options] key: an idempotency key, 1 to 64 visible ASCII characters; the client makes one by default.
     * @returns {Promise<PublishResult>}
     * @throws {APIError} the server refused the message, or cannot be reached; the error's class, `code` and `status` say why.
     */
    publish(pattern: Pattern, payload: any, { key }?: {
        key?: string;
    }): Promise<PublishResult>;
    /**
     * Publish any number of messages in order, in batches of up to 10,000 messages and 4 MiB. A message that is refused does not
     * affect the others. After a batch that failed because the server cannot take it now, the rest is not sent and gets
     * `Unavailable`.
     *
     * @param {Iterable<OutgoingMessage>} messages
     * @returns {Promise<PublishOutcome[]>} an outcome for each message, in the same order.
     */
    publishMany(messages: Iterable<OutgoingMessage>): Promise<PublishOutcome[]>;
    /**
     * Read the messages that the server keeps of a pattern.
     *
     * @param {Pattern} pattern
     * @param {{last?: number, since?: string, limit?: number}} [options] last: how many of the newest messages; since: a position,
     *   after which the messages come; limit: how many of these at most. Without `last` and `since` there are no messages, only
     *   the position `at`.
     * @returns {Promise<History>}
     * @throws {APIError} the server refused it, with the code `no-history` if it keeps none of the pattern, or cannot be reached.
     */
    history(pattern: Pattern, { last, since, limit }?: {
        last?: number;
        since?: string;
        limit?: number;
    }): Promise<History>;
    #private;
}
/**
 * a set of filters, such as `{kind: "news"}`
 */
export type Pattern = Record<string, string | number | boolean>;
/**
 * a message to publish
 */
export type OutgoingMessage = {
    pattern: Pattern;
    /**
     * a value that JSON can represent, or a `RawJSON`.
     */
    payload: any;
    /**
     * an idempotency key: 1 to 64 visible ASCII characters. The client makes one if there is none.
     */
    key?: string | undefined;
};
/**
 * a message that the server keeps
 */
export type StoredMessage = {
    /**
     * numbers that a double cannot represent are texts, as in a subscription.
     */
    payload: any;
    /**
     * the payload as it was published.
     */
    text: string;
    /**
     * what it was published to; its values are texts if the history is that of a wildcard.
     */
    pattern: Pattern;
    position: string;
};
export type History = {
    /**
     * the pattern's id.
     */
    id: string;
    /**
     * the position of the newest message.
     */
    at: string;
    /**
     * the offset of the oldest message that the server keeps.
     */
    first: number;
    /**
     * for `since`: whether all messages after it are still there.
     */
    recovered?: boolean | undefined;
    /**
     * whether there are more messages: ask again with the position of the last one.
     */
    more: boolean;
    /**
     * the oldest first.
     */
    messages: StoredMessage[];
};
export type RequestOptions = {
    fetch: (url: URL, request: RequestInit) => Promise<Response>;
    /**
     * in ms
     */
    timeout: number;
    /**
     * in ms
     */
    backoffBase: number;
    retryUnclear: boolean;
};
/**
 * times are in milliseconds
 */
export type APIOptions = {
    /**
     * the API key, sent as `Authorization: Bearer`.
     */
    key?: string | undefined;
    /**
     * for each try, and the longest time that a server can ask the client to wait, 10000.
     */
    timeout?: number | undefined;
    /**
     * the first bound of the delay before a retry, 250.
     */
    backoffBase?: number | undefined;
    /**
     * also repeat a request that the server may have taken, true. Turn it off for
     * servers that do not keep idempotency keys: there a message could be published twice.
     */
    retryUnclear?: boolean | undefined;
    /**
     * instead of the platform's; it has to heed `signal`.
     */
    fetch?: ((url: URL, request: RequestInit) => Promise<Response>) | undefined;
};
export type PublishResult = {
    /**
     * the pattern's id.
     */
    id: string;
    /**
     * how many nodes the broker reached.
     */
    nodes: number;
    /**
     * the message's position, if the pattern has a history.
     */
    at?: string | undefined;
    /**
     * whether a message with the same idempotency key was published before.
     */
    duplicate?: boolean | undefined;
};
/**
 * what
 *  happened to one message of many: the result, or the error that `publish` would throw.
 */
export type PublishOutcome = (PublishResult & {
    error?: undefined;
}) | {
    error: APIError;
    id?: undefined;
    nodes?: undefined;
};
import { RealizehitError } from "./realizehit.js";
