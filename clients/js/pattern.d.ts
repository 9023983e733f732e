/*! realizehit 0.1.0, MIT; made of pattern.js, f6e48c1e1b9a2524 */
/**
 * Return a pattern's canonical text. It is also the name of the channel at the broker.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @param {{wildcard?: boolean}} [options] wildcard: whether it may contain the reserved `*`, as a subscription may.
 * @throws {PatternError} it breaks a rule.
 */
export function channel(pattern: Record<string, string | number | bigint | boolean>, { wildcard }?: {
    wildcard?: boolean;
}): string;
/**
 * Return a pattern's id, the label of its payloads on the wire: the first 8 hex digits of the MD5 of its channel. Two patterns
 * can have one id.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function id(pattern: Record<string, string | number | bigint | boolean>): string;
/**
 * Return the shape of a subscription: its channel with `=` for each fixed value. Subscriptions of one shape differ only in
 * these values, and a publication matches at most one of them.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function shape(pattern: Record<string, string | number | bigint | boolean>): string;
/**
 * Return the channel of the wildcard subscription of a shape that a publication matches. It is `null` if the publication lacks
 * a key of the shape, or has a further key and the shape has no `*:*`.
 *
 * @param {string} published the channel that is published to, as `channel` returns it.
 * @param {string} shape as `shape` returns it for a wildcard subscription.
 */
export function project(published: string, shape: string): string | null;
/**
 * Return whether a subscription gets what is published to a pattern. Without a `*`, it gets only its own pattern.
 *
 * @param {Record<string, string | number | bigint | boolean>} subscription
 * @param {Record<string, string | number | bigint | boolean>} publication
 * @throws {PatternError} one of them breaks a rule, or `publication` contains a `*`.
 */
export function matches(subscription: Record<string, string | number | bigint | boolean>, publication: Record<string, string | number | bigint | boolean>): boolean;
/** A pattern that breaks a rule; its text names the filter and the bound. */
export class PatternError extends Error {
    /**
     * @param {string} message
     * @param {"bad-pattern" | "wildcard-unsupported"} [code]
     */
    constructor(message: string, code?: "bad-pattern" | "wildcard-unsupported");
    code: "bad-pattern" | "wildcard-unsupported";
}
