const MAX_TIMER = 2 ** 31 - 1; // ms; with a longer delay, every platform fires a timer at once

/** Return the time of a monotonic clock, in ms. */
export const now = () => performance.now();

/** @type {number | undefined} */
let time;

/**
 * Return the time at which the first of several messages came that arrived together, in ms of `now`: it is read once for
 * everything that runs before the next microtask. Reading the clock for each message would cost a tenth of its time.
 */
export const timeOfArrival = () => (time ??= (queueMicrotask(() => (time = undefined)), now()));

/**
 * Call something after a delay, which may be any number.
 *
 * @param {() => void} call
 * @param {number} delay in ms
 */
export const callAfter = (call, delay) => setTimeout(call, Math.min(delay > 0 ? delay : 0, MAX_TIMER));
