/*! realizehit 0.1.0, MIT; made of pattern.js, 39f619c29124757f */
/**
 * Return a pattern's canonical text, which is the channel at the broker.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @param {{wildcard?: boolean}} [options] wildcard: whether the reserved `*` may stand in it, as in a subscription.
 * @throws {PatternError} it breaks a rule.
 */
export function channel(pattern: Record<string, string | number | bigint | boolean>, { wildcard }?: {
    wildcard?: boolean;
}): string;
/**
 * Return the shape of a subscription: its channel with `=` for each fixed value. Subscriptions of one shape differ in these
 * values alone, and a publication matches at most one of them.
 *
 * @param {Record<string, string | number | bigint | boolean>} pattern
 * @throws {PatternError} it breaks a rule.
 */
export function shape(pattern: Record<string, string | number | bigint | boolean>): string;
/**
 * Return the channel of the one wildcard subscription of a shape that a publication matches, or `null` where there is none:
 * the publication lacks a key of the shape, or has a further one that the shape does not leave open.
 *
 * @param {string} published the channel that is published to, as `channel` returns it.
 * @param {string} shape as `shape` returns it for a wildcard subscription.
 */
export function project(published: string, shape: string): string | null;
/**
 * Tell whether a subscription gets what is published to a pattern. Without a star, that is the same pattern alone.
 *
 * @param {Record<string, string | number | bigint | boolean>} subscription
 * @param {Record<string, string | number | bigint | boolean>} publication
 * @throws {PatternError} one of them breaks a rule, or `publication` has a star.
 */
export function matches(subscription: Record<string, string | number | bigint | boolean>, publication: Record<string, string | number | bigint | boolean>): boolean;
/** A pattern that breaks a rule; the text names the filter and the bound. */
export class PatternError extends Error {
    /**
     * @param {string} message
     * @param {"bad-pattern" | "wildcard-unsupported"} [code]
     */
    constructor(message: string, code?: "bad-pattern" | "wildcard-unsupported");
    code: "bad-pattern" | "wildcard-unsupported";
}
