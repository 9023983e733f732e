// Shows who would get a publication; nothing is published.

function cell(row, text, kind = "") {
  const element = row.insertCell();
  element.textContent = text;
  element.className = kind;
}

/** A button that asks the server, and the table of its answer. */
export class Audience {
  #asked = 0; // an earlier answer does not replace a later one

  /**
   * @param {{button: HTMLElement, table: HTMLTableElement, note: HTMLElement, api: string, pattern: () => object | undefined}} parts
   *   pattern: returns what to ask about, `undefined` where it is wrong.
   */
  constructor({ button, table, note, api, pattern }) {
    this.table = table;
    this.note = note;
    this.url = new URL("audience", new URL(api, location.href));
    button.addEventListener("click", () => {
      const asked = pattern();
      if (asked) this.#ask(asked);
    });
  }

  async #ask(pattern) {
    const number = ++this.#asked;
    this.table.hidden = true;
    this.note.textContent = "";
    try {
      const url = new URL(this.url);
      url.searchParams.set("pat", JSON.stringify(pattern));
      const response = await fetch(url);
      const answer = await response.json();
      if (number !== this.#asked) return;
      if (response.ok) this.#show(answer);
      else this.#note("bad", `${answer.code} (${response.status}): ${answer.detail}`);
    } catch (error) {
      if (number === this.#asked) this.#note("bad", `no answer: ${error.message}`);
    }
  }

  #show({ channels, nodes, shapes }) {
    const [body] = this.table.tBodies;
    body.replaceChildren();
    for (const { channel, shape, nodes: count, subscribers } of channels) {
      const row = body.insertRow();
      cell(row, channel, "mono");
      cell(row, shape ?? "", "mono");
      cell(row, count, "number");
      cell(row, subscribers ?? "", "number");
    }
    this.table.hidden = false;
    const applied = channels.length - 1;
    this.#note("good", `would go ${nodes} ${nodes === 1 ? "time" : "times"} to a node · ${applied} of ${shapes.length} shapes apply`);
  }

  #note(kind, text) {
    this.note.className = `answer ${kind}`;
    this.note.textContent = text;
  }
}
