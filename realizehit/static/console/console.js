// The console: subscribes, publishes, and shows the figures of the nodes.

import { APIClient, WSClient } from "../realizehit.js";
import { Audience } from "./audience.js";
import { Chart } from "./chart.js";
import { Feed } from "./feed.js";
import { History } from "./history.js";
import { bytes, duration, Nodes } from "./nodes.js";
import { patternText, problemOf, readPattern } from "./json.js";

const COLOURS = 8;
const KEPT = "realizehit-console"; // in the tab's storage: patterns, so that a reload keeps them

const $ = (id) => document.getElementById(id);
const count = (value) =>
  value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : Number(value.toFixed(value < 10 ? 1 : 0)).toLocaleString("en");

// ---- the theme

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const showTheme = () => $("theme").setAttribute("aria-pressed", isDark());
const chosen = localStorage.getItem("realizehit-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("realizehit-theme", theme);
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// ---- the connection

// Payloads stay text, so that they are shown as they were published, with all digits of a number.
const client = new WSClient("ws", { parse: (text) => text, backoffCap: 5000 });
const feed = new Feed();

function showLink(state, text) {
  $("link").dataset.state = state;
  $("link").querySelector(".text").textContent = text;
}
client.on("connected", (kind) => {
  showLink(kind, kind === "sse" ? "Connected by events over HTTP" : "Connected by WebSocket");
});
client.on("disconnect", () => showLink("waiting", "Reconnecting"));
client.on("error", (error) => {
  if (error.status >= 4500) showLink("refused", `Refused: ${error.message}`);
  else if (client.disconnected) showLink("waiting", "Reconnecting");
});
// Where WebSockets are blocked, the client has nothing to connect for until there is a subscription.
setTimeout(() => {
  if (client.disconnected && !subscribed.size) showLink("waiting", "No WebSocket; events over HTTP once you subscribe");
}, 5000);

// ---- subscribing

const subscribed = new Map(); // by the pattern's text in one order -> {subscription, show}
let nextColour = 0;

function fail(id, text, ...inputs) {
  $(id).textContent = text;
  for (const input of inputs) input.setAttribute("aria-invalid", Boolean(text));
}

function keep() {
  const patterns = [...subscribed.values()].map(({ subscription }) => subscription.pattern);
  sessionStorage.setItem(KEPT, JSON.stringify(patterns));
}

/**
 * Subscribe to a pattern.
 *
 * @param {object} pattern
 * @param {{last?: number, since?: string}} begin where in the history of the pattern to begin; by default not in it.
 */
function subscribe(pattern, begin = {}) {
  fail("subscribe-error", "", $("pattern-text")); // it is about an earlier pattern
  const name = patternText(pattern);
  const key = name.split(",").sort().join();
  const asked = begin.last || begin.since;
  const before = subscribed.get(key)?.subscription;
  if (before && !before.unsubscribing()) {
    if (!asked) return;
    before.unsubscribe(); // a subscription that is ending can be replaced
  }
  const subscription = client.subscribe(pattern, { ...begin, offsets: true });
  const colour = nextColour++ % COLOURS;
  const row = document.createElement("li");
  row.innerHTML =
    '<span class="dot" aria-hidden="true"></span><span class="mono"></span><span class="state"></span>' +
    '<span class="tally"></span><button class="plain" type="button"><span aria-hidden="true">×</span></button>';
  const [dot, label, state, tally, button] = row.children;
  dot.classList.add(`c${colour}`);
  label.textContent = name;
  button.setAttribute("aria-label", `Unsubscribe from ${name}`);
  const show = () => {
    state.textContent = subscription.state === "subscribed" ? "" : subscription.state;
    row.dataset.state = subscription.state;
    tally.textContent = subscription.payloads ? count(subscription.payloads) : "";
  };
  const remove = () => {
    row.remove();
    if (subscribed.get(key)?.subscription === subscription) subscribed.delete(key);
    keep();
  };
  subscription.on("subscribing", show).on("subscribed", show).on("unsubscribing", show);
  subscription.on("unsubscribed", remove);
  subscription.on("error", (error) => fail("subscribe-error", `${name}: ${error.message}`));
  subscription.on("payload", (text, { pattern, position }) => {
    feed.payload(text, pattern === subscription.pattern ? name : patternText(pattern), colour, position);
  });
  subscription.on("gap", (seconds) => {
    const when = seconds ? `The connection was away for ${seconds.toFixed(1)} s` : "What came after that position is not kept";
    feed.note(`${when}; messages may be missing here.`, name, colour);
  });
  subscription.on("recovered", () => feed.note("Nothing is missing: what was missed follows.", name, colour, "recovered"));
  if (asked) {
    subscription.once("subscribed", () => {
      if (!subscription.position) feed.note("This pattern has no history: no rule contains it.", name, colour, "note");
    });
  }
  button.addEventListener("click", () => {
    const others = [...$("subscriptions").querySelectorAll("button")];
    (others[others.indexOf(button) + 1] ?? others[others.indexOf(button) - 1] ?? firstInput()).focus();
    subscription.unsubscribe();
  });
  subscribed.set(key, { subscription, show });
  $("subscriptions").append(row);
  keep();
  show();
}
setInterval(() => subscribed.forEach(({ show }) => show()), 500);

let rows = 0;
function addFilter(key = "", value = "") {
  const number = ++rows;
  const row = document.createElement("li");
  row.innerHTML =
    `<label class="hidden" for="key-${number}">Key</label><input id="key-${number}" class="mono key" placeholder="key">` +
    `<span aria-hidden="true">=</span><label class="hidden" for="value-${number}">Value</label>` +
    `<input id="value-${number}" class="mono" placeholder="value">` +
    '<button class="plain" type="button" aria-label="Remove this filter"><span aria-hidden="true">×</span></button>';
  const [keyInput, valueInput] = row.querySelectorAll("input");
  for (const input of [keyInput, valueInput]) {
    input.autocomplete = "off";
    input.autocapitalize = "none";
    input.spellcheck = false;
  }
  keyInput.value = key;
  valueInput.value = value;
  row.querySelector("button").addEventListener("click", () => {
    row.remove();
    if (!$("filters").children.length) addFilter();
    $("filters").querySelector("input").focus();
  });
  $("filters").append(row);
  return keyInput;
}

const byText = () => $("subscribe").elements.mode.value === "text";
const firstInput = () => (byText() ? $("pattern-text") : $("filters").querySelector("input"));

function readFilters() {
  const pattern = Object.create(null); // no key is special, such as __proto__
  for (const row of $("filters").children) {
    const [key, value] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
    if (!key && !value) continue;
    if (!key || !value) throw new Error(`a filter has a key and a value; the ${key ? "value" : "key"} is empty`);
    if (key in pattern) throw new Error(`the key “${key}” occurs twice`);
    pattern[key] = value;
  }
  if (!Object.keys(pattern).length) throw new Error("write at least one filter, such as kind = news");
  return pattern;
}

/** Switch between filters and text, and keep what was written. */
function changeMode() {
  $("by-filters").hidden = byText();
  $("by-text").hidden = !byText();
  fail("subscribe-error", "", $("pattern-text"));
  try {
    if (byText()) $("pattern-text").value = patternText(readFilters());
    else {
      const filters = Object.entries(readPattern($("pattern-text").value));
      $("filters").replaceChildren();
      for (const [key, value] of filters) addFilter(key, value);
    }
  } catch {
    // The pattern is not complete yet.
  }
}
for (const radio of $("subscribe").elements.mode) radio.addEventListener("change", changeMode);
$("add-filter").addEventListener("click", () => addFilter().focus());
$("subscribe").addEventListener("submit", (event) => {
  event.preventDefault();
  const begin = readBegin();
  if (!begin) return;
  try {
    subscribe(byText() ? readPattern($("pattern-text").value) : readFilters(), begin);
  } catch (error) {
    fail("subscribe-error", error.message);
    if (byText()) $("pattern-text").setAttribute("aria-invalid", true);
    firstInput().focus();
  }
});
addFilter();

function showBegin() {
  for (const name of ["last", "since"]) $(`begin-${name}`).hidden = $("begin").value !== name;
  fail("subscribe-error", "", $("begin-last"), $("begin-since"));
}
$("begin").addEventListener("change", showBegin);
showBegin(); // a browser may remember what was chosen before a reload

/** Read where to begin; an error is shown, and then there is no result. */
function readBegin() {
  const how = $("begin").value;
  if (how === "now") return {};
  const input = $(`begin-${how}`);
  const value = input.value.trim();
  const isRight = how === "last" ? /^[1-9]\d*$/.test(value) : /^\w+\.\d+$/.test(value);
  fail("subscribe-error", isRight ? "" : how === "last" ? "write how many messages, such as 10" : "write a position, such as k3f09a2c.17", input);
  if (isRight) return how === "last" ? { last: Number(value) } : { since: value };
  input.focus();
  return undefined;
}

// ---- publishing

const { api } = document.documentElement.dataset;
$("publish").hidden = !api;
$("publish-off").hidden = Boolean(api);

function checkPattern() {
  try {
    const pattern = readPattern($("publish-pattern").value);
    fail("publish-pattern-error", "", $("publish-pattern"));
    return pattern;
  } catch (error) {
    fail("publish-pattern-error", error.message, $("publish-pattern"));
    return undefined;
  }
}
const checkPayload = () => fail("payload-error", problemOf($("payload").value), $("payload"));

// An error is shown when publishing, and removed while the field is corrected, but not when the field loses the focus: a text
// that appears or disappears between the press and the release of the mouse button moves the button away from the click.
$("publish-pattern").addEventListener("input", () => {
  if ($("publish-pattern").matches("[aria-invalid=true]")) checkPattern();
});
$("payload").addEventListener("input", checkPayload);
$("payload").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("publish").requestSubmit();
});
let published = 0; // how often it was asked for
$("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = $("answer");
  answer.textContent = ""; // it is about an earlier publication
  const pattern = checkPattern();
  checkPayload();
  const wrong = $("publish").querySelector("[aria-invalid=true]");
  if (wrong) {
    wrong.focus();
    return;
  }
  const number = ++published;
  const show = (kind, text) => {
    if (number !== published) return; // a later publication has its own answer
    answer.className = `answer ${kind}`;
    answer.textContent = text;
  };
  const began = performance.now();
  try {
    // The payload is sent as the text that was written: JavaScript would round large numbers.
    const body = `{"pattern":${JSON.stringify(pattern)},"payload":${$("payload").value}}`;
    const publisher = new APIClient(new URL(api, location.href), {
      fetch: (url, request) => fetch(url, { ...request, body }),
    });
    const { status, id, nodes, at } = await publisher.publish(pattern, null);
    const took = `${Math.max(1, Math.round(performance.now() - began))} ms`;
    const reached = nodes ? `reached ${nodes} ${nodes === 1 ? "node" : "nodes"}` : "nobody subscribes to it";
    show("good", [status, `id ${id}`, reached, ...(at ? [`at ${at}`] : []), took].join(" · "));
  } catch (error) {
    show("bad", error.code ? `${error.code} (${error.status}): ${error.message}` : `not published: ${error.message}`);
  }
});

new Audience({
  button: $("audience"),
  table: $("audience-table"),
  note: $("audience-note"),
  api,
  pattern: () => {
    const pattern = checkPattern();
    if (!pattern) $("publish-pattern").focus();
    return pattern;
  },
});

// ---- figures

const milliseconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
const charts = {
  connections: new Chart($("charts"), { title: "Connections", kind: "c0", format: count, least: 5 }),
  deliveries: new Chart($("charts"), { title: "Deliveries per second", kind: "c1", format: count, least: 5 }),
  latency: new Chart($("charts"), { title: "Publish to deliver", kind: "c2", format: milliseconds, least: 1 }),
  queued: new Chart($("charts"), { title: "Messages in queues", kind: "c3", format: count, least: 5 }),
};
const historyCard = new History(count, bytes, duration);
new Nodes("console/nodes", charts, count, milliseconds, subscribe, (alive) => historyCard.draw(alive));

for (const pattern of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) subscribe(pattern);
