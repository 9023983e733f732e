/** An error that the server reported, or the loss of a connection. */
export class RealizehitError extends Error {
  name = "RealizehitError";

  /**
   * @param {string} message text for people.
   * @param {string} [code] the server's stable code, for programs; empty if it sent none.
   * @param {number} [status] the HTTP status, or the close code of a WebSocket.
   */
  constructor(message, code = "", status = 0) {
    super(`${message}`.replace(/([?&]token=)[^&\s]+/g, "$1***")); // messages contain addresses and end up in logs
    /** The server's stable code, or an empty string. */
    this.code = code;
    /** The HTTP status, or the WebSocket's close code; 0 if there is none. */
    this.status = status;
  }
}

/**
 * Read the error that a response describes, with the errors of the single patterns if it names them.
 *
 * @param {Response} response
 */
export const errorFrom = async (response) => {
  const { code, detail, errors } = Object(await response.json().catch(() => {}));
  const error = new RealizehitError(detail ?? `${response.url} answered ${response.status}`, code, response.status);
  return Object.assign(error, { detail, errors });
};
