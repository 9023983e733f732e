// The list of payloads: it is bounded, can be paused, and is announced to screen readers now and then.

import { pretty } from "./json.js";

const MOST = 200; // entries that are kept
const REDRAW = 60; // ms between two changes of the list
const TELL = 5000; // ms between two announcements

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false,
});

export class Feed {
  #list = document.getElementById("feed");
  #count = document.getElementById("feed-count");
  #news = document.getElementById("feed-news");
  #empty = document.getElementById("feed-empty");
  #pause = document.getElementById("pause");
  #waiting = []; // entries that are not in the list yet
  #arrived = 0;
  #untold = 0;
  #held = 0; // that came while it was held still
  #timer;
  #teller;

  constructor() {
    this.#pause.addEventListener("click", () => this.#hold(!this.paused));
    document.getElementById("clear").addEventListener("click", () => {
      this.#waiting = [];
      this.#list.replaceChildren();
      this.#arrived = this.#held = 0;
      this.#show();
    });
  }

  get paused() {
    return this.#pause.getAttribute("aria-pressed") === "true";
  }

  /** Add a payload: its text, its pattern as text, the number of its colour, and its position if it has one. */
  payload(text, pattern, colour, position) {
    this.#arrived++;
    this.#untold++;
    if (this.paused) this.#held++;
    this.#add({ time: new Date(), text, pattern, colour, position });
    this.#teller ??= setTimeout(() => {
      this.#teller = undefined;
      if (!this.paused) this.#news.textContent = `${this.#untold} new ${this.#untold === 1 ? "payload" : "payloads"}`;
      this.#untold = 0;
    }, TELL);
  }

  /** Add a line about the feed itself; `kind` is `gap` where messages may be missing. */
  note(text, pattern, colour, kind = "gap") {
    this.#add({ time: new Date(), note: text, pattern, colour, kind });
  }

  #add(entry) {
    if (this.#waiting.push(entry) > MOST) this.#waiting.shift();
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (!this.paused) this.#move();
      this.#show();
    }, REDRAW);
  }

  #hold(still) {
    this.#pause.setAttribute("aria-pressed", still);
    this.#pause.textContent = still ? "Resume" : "Pause";
    this.#held = 0;
    if (!still) this.#move();
    this.#show();
  }

  #move() {
    const entries = this.#waiting.map(item).reverse();
    this.#waiting = [];
    // A reader who has scrolled down keeps the place.
    const before = this.#list.scrollHeight;
    const reading = this.#list.scrollTop > 4;
    this.#list.prepend(...entries);
    while (this.#list.children.length > MOST) this.#list.lastChild.remove();
    if (reading) this.#list.scrollTop += this.#list.scrollHeight - before;
  }

  #show() {
    this.#empty.hidden = this.#list.children.length > 0;
    const more = this.#arrived > MOST ? `the last ${MOST} of ${this.#arrived.toLocaleString()}` : `${this.#arrived}`;
    this.#count.textContent = this.paused ? `paused, ${this.#held.toLocaleString()} more came` : this.#arrived ? more : "";
  }
}

function item({ time, text, note, pattern, colour, position, kind }) {
  const item = document.createElement("li");
  const stamp = document.createElement("time");
  stamp.dateTime = time.toISOString();
  stamp.textContent = clock.format(time);
  const name = document.createElement("span");
  name.className = `pattern mono c${colour}`;
  name.textContent = pattern;
  const body = document.createElement(note ? "p" : "pre");
  if (note) {
    item.className = kind;
    body.textContent = note;
  } else body.append(pretty(text));
  if (position) {
    const at = document.createElement("span");
    at.className = "position";
    at.textContent = `at ${position}`;
    name.append(" ", at);
  }
  item.append(stamp, name, body);
  return item;
}
