/**
 * Something that callbacks can be attached to. An exception in a callback does not stop the others: it is thrown again
 * where the platform reports uncaught exceptions. An `error` event without a callback is written to the console.
 *
 * @template {Record<string, any[]>} Events
 */
export class Emitter {
  /** @type {Map<keyof Events, Function[]>} */
  #callbacks = new Map();

  /** @param {keyof Events} event */
  #of(event) {
    return this.#callbacks.get(event) ?? [];
  }

  /**
   * Call `callback` at each such event.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  on(event, callback) {
    this.#callbacks.set(event, [...this.#of(event), callback]);
    return this;
  }

  /**
   * Call `callback` at the next such event only, or at the next one of several events.
   *
   * @template {keyof Events} Name
   * @param {Name | Name[]} event
   * @param {(...values: Events[Name]) => void} callback
   */
  once(event, callback) {
    const events = [event].flat();
    /** @param {Events[Name]} values */
    const first = (...values) => {
      for (const each of events) this.off(/** @type {Name} */ (each), first);
      callback(...values);
    };
    for (const each of events) this.on(/** @type {Name} */ (each), first);
    return this;
  }

  /**
   * Remove a callback.
   *
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {(...values: Events[Name]) => void} callback
   */
  off(event, callback) {
    this.#callbacks.set(event, this.#of(event).filter((each) => each !== callback));
    return this;
  }

  /**
   * @internal
   * @template {keyof Events} Name
   * @param {Name} event
   * @param {Events[Name]} values
   */
  _emit(event, ...values) {
    const callbacks = this.#of(event);
    if (event === "error" && !callbacks.length) console.error(values[0]);
    for (const callback of callbacks) {
      try {
        callback(...values);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}
