/**
 * Return a function that parses the text of an event stream piece by piece (HTML standard, section 9.2.6).
 *
 * @param {(name: string, data: string, id: string) => void} onEvent called with each event; the default name is `message`.
 * @param {(ms: number) => void} onRetry called with the delay before reconnecting.
 */
export const eventStreamParser = (onEvent, onRetry) => {
  let rest = "";
  /** @type {Record<string, string>} */
  const fields = { event: "", data: "", id: "" };
  let endsWithCR = false; // whether the last piece ended with a CR: an LF may follow that belongs to the same line end
  /** @param {string} text */
  return (text) => {
    const lines = (endsWithCR ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    endsWithCR = text.endsWith("\r");
    lines[0] = rest + lines[0]; // the rest has no line end, so it is not searched again
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) {
      const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)/s.exec(line));
      if (!line) {
        if (fields.data) onEvent(fields.event || "message", fields.data.slice(0, -1), fields.id);
        fields.event = fields.data = "";
      } else if (field === "data") fields.data += `${value}\n`;
      else if (field === "retry" && /^\d+$/.test(value)) onRetry(+value);
      else if (field !== "id" || !value.includes("\0")) fields[field] = value;
    }
  };
};
