/*! realizehit 0.1.0, MIT; made of pattern.js, 6d7b04086ec4b0e4 */
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
/** A pattern that breaks a rule; the text names the filter and the bound. */
export class PatternError extends Error {
    /**
     * @param {string} message
     * @param {"bad-pattern" | "wildcard-unsupported"} [code]
     */
    constructor(message: string, code?: "bad-pattern" | "wildcard-unsupported");
    code: "bad-pattern" | "wildcard-unsupported";
}
