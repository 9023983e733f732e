// The figures of all processes: one row for each, and the charts and the busiest channels for all of them.

import { patternOf, patternText } from "./json.js";

const INTERVAL = 1000; // ms between two questions
const PATIENCE = 10_000; // ms for an answer

// The numbers of a row, in the order of its columns. A process of another version may lack some.
const COUNTS = [
  "connections", "subscriptions", "channels", "shapes", "messages_rate", "deliveries_rate", "published_rate",
  "queued_messages", "slow_disconnects",
];

const $ = (selector) => document.querySelector(selector);
const sum = (items, name) => items.reduce((total, item) => total + item[name], 0);

function cell(row, text, kind = "") {
  const made = row.insertCell();
  made.className = kind;
  made.textContent = text;
  return made;
}

export function duration(seconds) {
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [name, size] = units[first];
  const [smaller, least] = units[first + 1] ?? [];
  const rest = least && Math.floor((seconds % size) / least);
  return `${Math.floor(seconds / size)} ${name}${rest ? ` ${rest} ${smaller}` : ""}`;
}

export function bytes(size) {
  return size < 1024 ? `${size} B` : size < 1 << 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / (1 << 20)).toFixed(1)} MiB`;
}

/** Write how many processes there are, on how many hosts, and how many of them are gone. */
function counted(nodes) {
  const here = nodes.filter(({ gone }) => gone === undefined);
  const hosts = new Set(here.map(({ host }) => host)).size;
  const text = `${here.length} ${here.length === 1 ? "process" : "processes"} on ${hosts} ${hosts === 1 ? "host" : "hosts"}`;
  return here.length < nodes.length ? `${text}, ${nodes.length - here.length} gone` : text;
}

export class Nodes {
  #nodes = []; // what the server told last
  #url;
  #charts;
  #count;
  #milliseconds;
  #subscribe;
  #history;

  /**
   * @param {string} url where the figures are.
   * @param {Record<"connections" | "deliveries" | "latency" | "queued", import("./chart.js").Chart>} charts
   * @param {(value: number) => string} count writes a number.
   * @param {(value: number) => string} milliseconds writes a time.
   * @param {(pattern: object) => void} subscribe called for a channel that was clicked.
   * @param {(nodes: object[]) => void} history shows what the nodes tell of history.
   */
  constructor(url, charts, count, milliseconds, subscribe, history) {
    this.#url = url;
    this.#charts = charts;
    this.#count = count;
    this.#milliseconds = milliseconds;
    this.#subscribe = subscribe;
    this.#history = history;
    this.#watch();
  }

  async #watch() {
    const began = performance.now();
    try {
      const answer = await fetch(this.#url, { signal: AbortSignal.timeout(PATIENCE) });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.detail);
      this.#take(told);
    } catch (error) {
      this.#take({ nodes: [], error: error.message });
    }
    setTimeout(() => this.#watch(), Math.max(INTERVAL / 4, INTERVAL - (performance.now() - began)));
  }

  /** Take an answer; with an error it has no rows, or one of the server that was asked. The others keep their last row. */
  #take({ nodes, error }) {
    if (error) {
      const known = new Set(nodes.map(({ node }) => node));
      const silent = this.#nodes.filter(({ node }) => !known.has(node)).map((node) => ({ ...node, silent: true }));
      this.#nodes = [...nodes, ...silent];
    } else this.#nodes = nodes;
    $("#nodes-error").textContent = error ? `The processes could not be asked: ${error}` : "";
    this.#draw();
  }

  #draw() {
    const alive = this.#nodes.filter(({ gone, silent }) => gone === undefined && !silent);
    this.#drawCharts(alive);
    this.#drawNodes(this.#nodes);
    this.#drawBusiest(alive);
    this.#history(alive);
  }

  #drawCharts(nodes) {
    if (!nodes.length) {
      for (const chart of Object.values(this.#charts)) chart.push(null);
      return;
    }
    const { connections, deliveries, latency, queued } = this.#charts;
    const several = nodes.length > 1;
    connections.push(sum(nodes, "connections"), `${this.#count(sum(nodes, "subscriptions"))} subscriptions`);
    deliveries.push(sum(nodes, "deliveries_rate"), `${bytes(Math.round(sum(nodes, "bytes_rate")))}/s sent`);
    const measured = nodes.map(({ latency_ms }) => latency_ms).filter((value) => value !== null);
    latency.push(
      measured.length ? Math.max(...measured) : null,
      several ? `the slowest of ${nodes.length} processes` : "through the broker",
    );
    const largest = Math.max(...nodes.map(({ largest_queue }) => largest_queue.bytes));
    queued.push(sum(nodes, "queued_messages"), largest ? `the largest holds ${bytes(largest)}` : "no client is behind");
  }

  #drawNodes(nodes) {
    $("#nodes-empty").hidden = nodes.length > 0;
    $("#nodes").hidden = !nodes.length;
    const count = nodes.length ? counted(nodes) : "";
    if ($("#nodes-count").textContent !== count) $("#nodes-count").textContent = count; // it is read out when it changes
    $("#nodes tbody").replaceChildren(...nodes.map((node) => this.#row(node)));
  }

  #row(node) {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.innerHTML = "<span></span><small></small>";
    name.firstChild.textContent = node.host;
    const worker = node.worker ?? null;
    name.lastChild.textContent = `pid ${node.pid}${worker === null ? "" : ` · worker ${worker}`}`;
    name.title = `named ${node.node}`;
    row.append(name);
    const isGone = node.gone !== undefined;
    row.classList.toggle("silent", Boolean(node.silent) || isGone);
    const badge = document.createElement("span");
    badge.className = "badge";
    badge.dataset.state = isGone ? "gone" : node.silent ? "waiting" : node.broker;
    badge.innerHTML = '<span class="dot" aria-hidden="true"></span><span></span>';
    badge.lastChild.textContent = isGone ? `gone for ${duration(node.gone)}` : node.silent ? "silent" : node.broker;
    cell(row, "").append(badge);
    cell(row, node.role);
    cell(row, node.version);
    const number = (value, write) => cell(row, isGone ? "" : typeof value === "number" ? write(value) : "–", "number");
    number(node.uptime, duration);
    for (const key of COUNTS) number(node[key], this.#count);
    number(node.latency_ms, this.#milliseconds);
    return row;
  }

  #drawBusiest(nodes) {
    const channels = new Map();
    for (const node of nodes) {
      for (const { channel, subscribers, rate, at } of node.busiest) {
        const known = channels.get(channel) ?? { subscribers: 0, rate: 0 };
        // Each node with a subscriber gets each message, so their rates are equal and not added.
        channels.set(channel, { subscribers: known.subscribers + subscribers, rate: Math.max(known.rate, rate), at: at ?? known.at });
      }
    }
    const busiest = [...channels].sort(([, a], [, b]) => b.rate - a.rate).slice(0, 10);
    $("#busiest-empty").hidden = busiest.length > 0;
    $("#busiest").hidden = !busiest.length;
    const focused = document.activeElement?.closest?.("#busiest button")?.dataset.channel;
    const rows = busiest.map(([channel, { subscribers, rate, at }]) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      const pattern = patternOf(channel);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "link mono";
      button.dataset.channel = channel;
      button.title = "Subscribe to it";
      // A long channel may break between its filters.
      patternText(pattern).split(/(?<=,)/).forEach((filter, at) => button.append(...(at ? [document.createElement("wbr"), filter] : [filter])));
      button.addEventListener("click", () => this.#subscribe(pattern));
      name.append(button);
      if (at) {
        const place = document.createElement("small");
        place.textContent = `at ${at}`;
        name.append(place);
      }
      row.append(name);
      cell(row, this.#count(subscribers), "number");
      const share = document.createElement("span");
      share.className = "share";
      share.style.width = `${(100 * rate) / busiest[0][1].rate}%`;
      cell(row, this.#count(rate), "number").append(share);
      return row;
    });
    $("#busiest tbody").replaceChildren(...rows);
    if (focused) rows.map((row) => row.querySelector("button")).find(({ dataset }) => dataset.channel === focused)?.focus();
  }
}
