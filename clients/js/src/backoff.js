const MAX_REQUESTED = 300_000; // ms that a server may ask a client to stay away, the same in every realizehit client

/**
 * Return random delays before reconnecting ("full jitter"), in ms.
 *
 * @param {{backoffBase: number, backoffCap: number}} options
 */
export const createBackoff = ({ backoffBase, backoffCap }) => {
  let attempts = 0;
  let requests = 0; // how often a server named the delay
  /** Return a delay that is drawn evenly from zero to a bound; the bound doubles with each attempt. @param {number} attempts */
  const _jitter = (attempts) => Math.random() * Math.min(backoffCap, backoffBase * 2 ** attempts);
  return {
    _jitter,

    /** Return the delay before the next attempt. @param {number} [requested] the delay that the server asked for */
    _next(requested) {
      if (requested == null) return _jitter(attempts++);
      // If servers ask for no delay one after the other, the client pauses nevertheless.
      return Math.min(Math.max(requested, requests++ && _jitter(requests - 1)), MAX_REQUESTED);
    },

    /** Begin again: a connection has lasted. */
    _reset() {
      attempts = requests = 0;
    },
  };
};
