// The figures of the nodes: one row for each, and the charts and the busiest channels for all of them.

import { patternOf, patternText } from "./json.js";

const LATE = 2.5; // intervals without a message after which a node counts as silent
const GONE = 30_000; // ms after which a silent node is not shown any more

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

export class Nodes {
  #nodes = new Map(); // id -> {...what it told, heard}
  #charts;
  #count;
  #milliseconds;
  #subscribe;
  #history;

  /**
   * @param {Record<"connections" | "deliveries" | "latency" | "queued", import("./chart.js").Chart>} charts
   * @param {(value: number) => string} count writes a number.
   * @param {(value: number) => string} milliseconds writes a time.
   * @param {(pattern: object) => void} subscribe called for a channel that was clicked.
   * @param {(nodes: object[]) => void} history shows what the nodes tell of history.
   */
  constructor(charts, count, milliseconds, subscribe, history) {
    this.#charts = charts;
    this.#count = count;
    this.#milliseconds = milliseconds;
    this.#subscribe = subscribe;
    this.#history = history;
    setInterval(() => this.#draw(), 1000);
  }

  /** Take one node's message. */
  take(told) {
    const isNew = !this.#nodes.has(told.node);
    this.#nodes.set(told.node, { ...told, heard: performance.now() });
    if (isNew) this.#draw();
  }

  /** Show that there are no figures. */
  fail(error) {
    $("#nodes-empty").textContent = `No figures: ${error.message}`;
  }

  #draw() {
    const now = performance.now();
    const all = [...this.#nodes.values()].sort((a, b) => (a.host + a.node < b.host + b.node ? -1 : 1));
    const alive = [];
    for (const node of all) {
      node.silent = now - node.heard > node.interval * 1000 * LATE;
      if (now - node.heard > GONE) this.#nodes.delete(node.node);
      else if (!node.silent) alive.push(node);
    }
    this.#drawCharts(alive);
    this.#drawNodes(all.filter(({ node }) => this.#nodes.has(node)));
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
      several ? `the slowest of ${nodes.length} nodes` : "through the broker",
    );
    const largest = Math.max(...nodes.map(({ largest_queue }) => largest_queue.bytes));
    queued.push(sum(nodes, "queued_messages"), largest ? `the largest holds ${bytes(largest)}` : "no client is behind");
  }

  #drawNodes(nodes) {
    $("#nodes-empty").hidden = nodes.length > 0;
    $("#nodes").hidden = !nodes.length;
    const rows = nodes.map((node) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.innerHTML = "<span></span><small></small>";
      name.firstChild.textContent = node.host;
      name.lastChild.textContent = `pid ${node.pid} · ${node.node}`;
      row.append(name);
      row.classList.toggle("silent", node.silent);
      cell(row, node.role);
      cell(row, node.version);
      cell(row, duration(node.uptime), "number");
      for (const key of ["connections", "subscriptions", "messages_rate", "deliveries_rate", "queued_messages"]) {
        cell(row, this.#count(node[key]), "number");
      }
      cell(row, node.latency_ms === null ? "–" : this.#milliseconds(node.latency_ms), "number");
      const badge = document.createElement("span");
      badge.className = "badge";
      badge.dataset.state = node.silent ? "waiting" : node.broker;
      badge.innerHTML = '<span class="dot" aria-hidden="true"></span><span></span>';
      badge.lastChild.textContent = node.silent ? "silent" : node.broker;
      cell(row, "").append(badge);
      return row;
    });
    $("#nodes tbody").replaceChildren(...rows);
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
