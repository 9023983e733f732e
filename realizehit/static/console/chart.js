// A live chart: one figure over the last 60 seconds, drawn as SVG.

const WINDOW = 60_000; // ms
const WIDTH = 600; // of the drawing's own units; it is stretched to its place
const HEIGHT = 100;
const SVG = "http://www.w3.org/2000/svg";

/** Return the smallest of 1, 2, 5, 10, 20 … that is at least a value. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

export class Chart {
  #samples = []; // {time, value}; a value of null leaves a gap
  #value;
  #note;
  #top;
  #figure;
  #line;
  #area;
  #mark;
  #format;
  #title;
  #least;
  #pointed; // ms of age under the pointer

  /**
   * @param {Element} parent
   * @param {{title: string, kind: string, format: (value: number) => string, least: number}} options kind: names its
   *   colour; least: the scale's smallest top.
   */
  constructor(parent, { title, kind, format, least }) {
    this.#title = title;
    this.#format = format;
    this.#least = least;
    const card = document.createElement("article");
    card.className = `card chart ${kind}`;
    card.innerHTML =
      '<h2></h2><p class="value">–</p><p class="note">&nbsp;</p><div class="plot" role="img"><span class="top"></span></div>' +
      '<p class="axis" aria-hidden="true"><span>60 s</span><span>30 s</span><span>now</span></p>';
    card.querySelector("h2").textContent = title;
    this.#value = card.querySelector(".value");
    this.#note = card.querySelector(".note");
    this.#top = card.querySelector(".top");
    this.#figure = card.querySelector(".plot");
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, this.#figure);
    svg.setAttribute("aria-hidden", "true");
    for (const y of [0.5, HEIGHT / 2, HEIGHT - 0.5]) element("path", { class: "grid", d: `M0 ${y}H${WIDTH}` }, svg);
    this.#area = element("path", { class: "area" }, svg);
    this.#line = element("path", { class: "line" }, svg);
    this.#mark = element("path", { class: "mark" }, svg);
    this.#figure.addEventListener("pointermove", (event) => {
      const { left, width } = this.#figure.getBoundingClientRect();
      this.#pointed = (1 - (event.clientX - left) / width) * WINDOW;
      this.draw();
    });
    this.#figure.addEventListener("pointerleave", () => {
      this.#pointed = undefined;
      this.draw();
    });
    parent.append(card);
  }

  /** Add a value, or null if there is none, with a note beside it. */
  push(value, note = "") {
    const time = performance.now();
    this.#samples.push({ time, value });
    // One more than is shown, so that the line begins at the edge.
    while (this.#samples.length > 2 && this.#samples[1].time < time - WINDOW) this.#samples.shift();
    this.#note.textContent = note || "\u00a0";
    this.draw();
  }

  draw() {
    const now = performance.now();
    const shown = this.#samples.filter(({ value }) => value !== null);
    const most = Math.max(this.#least, ...shown.map(({ value }) => value));
    const top = roundUp(most);
    this.#top.textContent = this.#format(top);
    let line = "";
    let area = "";
    let start;
    let x;
    const close = () => {
      if (start !== undefined) area += `V${HEIGHT}H${start}Z`;
      start = undefined;
    };
    for (const { time, value } of this.#samples) {
      if (value === null) {
        close();
        continue;
      }
      x = ((1 - (now - time) / WINDOW) * WIDTH).toFixed(1);
      const y = (HEIGHT - 1 - (value / top) * (HEIGHT - 4)).toFixed(1);
      const step = `${start === undefined ? "M" : "L"}${x} ${y}`;
      line += step;
      area += step;
      start ??= x;
    }
    close();
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
    const last = this.#samples.at(-1)?.value ?? null;
    const at = this.#pointed === undefined ? undefined : this.#nearest(now - this.#pointed);
    this.#mark.setAttribute("d", at ? `M${((1 - (now - at.time) / WINDOW) * WIDTH).toFixed(1)} 0V${HEIGHT}` : "");
    this.#value.textContent = at || last !== null ? this.#format(at ? at.value : last) : "–";
    this.#value.classList.toggle("past", Boolean(at));
    this.#figure.setAttribute("aria-label", this.#said(shown, last));
  }

  #nearest(time) {
    let best;
    for (const sample of this.#samples) {
      if (sample.value !== null && (!best || Math.abs(sample.time - time) < Math.abs(best.time - time))) best = sample;
    }
    return best;
  }

  #said(shown, last) {
    if (!shown.length) return `${this.#title}: no figures yet`;
    const values = shown.map(({ value }) => value);
    const [low, high] = [Math.min(...values), Math.max(...values)].map(this.#format);
    return `${this.#title} in the last 60 seconds: ${last === null ? "none" : this.#format(last)} now, ${low} to ${high}`;
  }
}
