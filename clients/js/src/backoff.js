const MAX_REQUESTED = 300_000; // ms that a server may ask a client to stay away, the same in every realizehit client

/** Random delays before reconnecting ("full jitter"), in ms. */
export class Backoff {
  #base;
  #cap;
  #attempts = 0;
  #requests = 0; // how often a server named the delay

  /** @param {{backoffBase: number, backoffCap: number}} options */
  constructor({ backoffBase, backoffCap }) {
    this.#base = backoffBase;
    this.#cap = backoffCap;
  }

  /** Return a delay that is drawn evenly from zero to a bound; the bound doubles with each attempt. @param {number} attempts */
  _jitter(attempts) {
    return Math.random() * Math.min(this.#cap, this.#base * 2 ** attempts);
  }

  /** Return the delay before the next attempt. @param {number} [requested] the delay that the server asked for */
  _next(requested) {
    if (requested == null) return this._jitter(this.#attempts++);
    // If servers ask for no delay one after the other, the client pauses nevertheless.
    const least = this.#requests && this._jitter(this.#requests);
    this.#requests++;
    return Math.min(Math.max(requested, least), MAX_REQUESTED);
  }

  /** Begin again: a connection has lasted. */
  _reset() {
    this.#attempts = this.#requests = 0;
  }
}
