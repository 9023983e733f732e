const MAX_TIMER = 2 ** 31 - 1; // ms; with a longer delay, every platform fires a timer at once

/** Return the time of a monotonic clock, in ms. */
export const now = () => performance.now();

/** Return a delay in ms that a timer accepts, for any number. @param {number} delay */
export const timerDelay = (delay) => Math.min(Math.max(delay, 0) || 0, MAX_TIMER);
