// Shows what is kept of the patterns with history, and what clients recovered or missed, over all nodes.

import { patternOf, patternText } from "./json.js";

const GAPS = 10; // of all nodes, the newest

const REASONS = {
  connection: "the connection to the broker was lost",
  no_rule: "no rule of history contains the pattern",
  unknown_position: "the position is unknown: the log began anew, or the broker lost its last messages",
  not_kept: "the messages are not kept any more",
  unreadable: "the history could not be read",
  begun_anew: "the log began anew during a replay",
  not_logged: "the shape of the wildcard was not registered for a time",
};

const $ = (selector) => document.querySelector(selector);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

function cell(row, text, kind = "") {
  const made = row.insertCell();
  made.className = kind;
  made.textContent = text;
  return made;
}

/** Write the pattern of a rule, `kind=chat,room=*`. */
function ruleText(pattern) {
  const filters = Object.entries(pattern).map(([key, values]) => `${key}=${values === null ? "*" : values.join("|")}`);
  return filters.join(",") || "every pattern";
}

export class History {
  #count;
  #bytes;
  #duration;

  /**
   * @param {(value: number) => string} count writes a number.
   * @param {(size: number) => string} bytes writes a size.
   * @param {(seconds: number) => string} duration writes a time.
   */
  constructor(count, bytes, duration) {
    this.#count = count;
    this.#bytes = bytes;
    this.#duration = duration;
  }

  /** Show the figures of the nodes that are alive. */
  draw(nodes) {
    const serving = nodes.filter(({ history }) => history);
    $("#history-figures").hidden = !serving.length;
    if (serving.length) this.#drawFigures(serving);
    this.#drawRules(serving[0]?.history ?? { rules: [], more_rules: 0 });
    this.#drawGaps(serving);
  }

  #drawFigures(nodes) {
    const count = this.#count;
    const sum = (read) => nodes.reduce((total, node) => total + read(node), 0);
    const show = (name, value, note) => {
      $(`#history-${name} dd`).textContent = value;
      $(`#history-${name} .note`).textContent = note;
    };
    const unread = sum(({ history }) => history.logs_to_read);
    show("logs", count(sum(({ history }) => history.logs)), unread ? `${count(unread)} still to be read` : "subscribed to here");
    const messages = sum(({ history }) => history.messages);
    show("memory", this.#bytes(sum(({ history }) => history.bytes)), `${count(messages)} messages in memory`);
    const [memory, broker] = ["memory", "broker"].map((from) => sum(({ history }) => history.recovered_from[from]));
    show("recovered", count(sum((node) => node.recovered_rate)), `${count(memory)} from memory, ${count(broker)} from the broker`);
    const replays = sum(({ history }) => history.replays);
    show(
      "replayed",
      count(sum((node) => node.replayed_rate)),
      `${count(sum((node) => node.replayed))} in all${replays ? `, ${count(replays)} replays under way` : ""}`,
    );
    show(
      "gaps",
      count(sum((node) => node.gaps_rate + node.not_recovered_rate)),
      `${count(sum((node) => node.gaps))} told, ${count(sum((node) => node.not_recovered))} not recovered`,
    );
  }

  #drawRules({ rules, more_rules: more }) {
    $("#rules").hidden = !rules.length;
    $("#rules-empty").hidden = rules.length > 0;
    $("#rules-more").textContent = more ? `and ${this.#count(more)} more` : "";
    const rows = rules.map(({ pattern, size, ttl }) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.className = "mono";
      name.textContent = ruleText(pattern);
      row.append(name);
      cell(row, this.#count(size), "number");
      cell(row, this.#duration(ttl), "number");
      return row;
    });
    $("#rules tbody").replaceChildren(...rows);
  }

  #drawGaps(nodes) {
    const gaps = nodes.flatMap(({ host, pid, history }) => history.last_gaps.map((gap) => ({ ...gap, node: `${host}, pid ${pid}` })));
    gaps.sort((a, b) => b.time - a.time).splice(GAPS);
    $("#gaps").hidden = !gaps.length;
    $("#gaps-empty").hidden = gaps.length > 0;
    const rows = gaps.map(({ time, reason, channel, seconds, count, node }) => {
      const row = document.createElement("tr");
      cell(row, clock.format(time * 1000)).title = node;
      cell(row, channel === null ? "all without history" : patternText(patternOf(channel)), channel === null ? "" : "mono");
      cell(row, REASONS[reason] ?? reason);
      cell(row, seconds === null ? "–" : `${seconds.toFixed(1)} s`, "number");
      cell(row, this.#count(count), "number");
      return row;
    });
    $("#gaps tbody").replaceChildren(...rows);
  }
}
