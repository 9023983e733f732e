const MAX_TIMER = 2 ** 31 - 1; // ms; with a longer delay, every platform fires a timer at once

/** Return the time of a monotonic clock, in ms. */
export const now = () => performance.now();

/**
 * Call something after a delay, which may be any number.
 *
 * @param {() => void} call
 * @param {number} delay in ms
 */
export const callAfter = (call, delay) => setTimeout(call, Math.min(Math.max(delay, 0) || 0, MAX_TIMER));
