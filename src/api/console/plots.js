// Live plots of order flow and latency.

import uPlot from "./vendor/uplot.js";
import { h, setText } from "./dom.js";
import { short, span } from "./format.js";
import { HISTORY_S } from "./store.js";

/** What is beyond the last bound of the latency's buckets is drawn there. */
const LATENCY_MAX_NS = 2_000_000_000;
/** Seconds that a plot has at least. */
const SHORTEST_S = 60;
/** Plots are drawn anew this often at most. */
const EVERY_MS = 500;

/**
 * @typedef {{ name: string, color: string, series: number, dash?: number[] }} Line
 */

/** A plot with a legend in words and numbers, so that nothing is told by a line alone. */
class Plot {
  /**
   * @param {string} title @param {Line[]} lines @param {(value: number) => string} words
   * @param {any} scale of the vertical axis
   * @param {number[]} [splits] where that axis has lines; without, the plot chooses
   */
  constructor(title, lines, words, scale, splits) {
    this.lines = lines;
    this.words = words;
    this.scale = scale;
    this.splits = splits;
    /** @type {any} */
    this.plot = null;
    this.values = lines.map(() => h("b", { class: "num" }, "–"));
    const legend = h(
      "div",
      { class: "legend" },
      lines.map((line, i) => {
        const key = h("span", { class: `key ${line.dash ? "dashed" : ""}` }, line.name, " ", this.values[i]);
        key.style.setProperty("--key", `var(${line.color})`);
        return key;
      }),
    );
    this.place = h("div", { "aria-hidden": "true" });
    this.element = h(
      "section",
      { class: "panel" },
      h("header", {}, h("h2", {}, title)),
      h("div", { class: "plot" }, legend, this.place),
    );
  }

  /** @param {import("./store.js").History} history @param {boolean} vouched */
  show(history, vouched) {
    const data = [history.seconds, ...this.lines.map((line) => history.series[line.series].map(drawn))];
    this.lines.forEach((line, i) => {
      const last = vouched ? (history.series[line.series].at(-1) ?? null) : null;
      setText(this.values[i], last === null ? "–" : this.words(last));
    });
    const width = this.place.clientWidth;
    if (width === 0) return;
    if (!this.plot) this.make(width, data);
    else {
      if (this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
      this.plot.setData(data);
    }
  }

  /** @param {number} width @param {any} data */
  make(width, data) {
    const style = getComputedStyle(document.documentElement);
    const color = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    this.plot = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [12, 14, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: {
            time: true,
            range: (/** @type {any} */ _, /** @type {number} */ min, /** @type {number} */ max) => [
              // What there is of it fills the plot, once there is a minute.
              (max ?? 0) - Math.min(HISTORY_S, Math.max(SHORTEST_S, (max ?? 0) - (min ?? 0))),
              max ?? 0,
            ],
          },
          y: this.scale,
        },
        tzDate: (/** @type {number} */ at) => uPlot.tzDate(new Date(at * 1_000), "Etc/UTC"),
        axes: [
          {
            ...axis,
            space: 70,
            size: 26,
            values: (/** @type {any} */ _, /** @type {number[]} */ at) =>
              at.map((s) => new Date(s * 1_000).toISOString().slice(11, s % 60 === 0 ? 16 : 19)),
          },
          {
            ...axis,
            size: 62,
            ...(this.splits
              ? { splits: () => this.splits ?? [], filter: (/** @type {any} */ _, /** @type {number[]} */ at) => at }
              : {}),
            values: (/** @type {any} */ _, /** @type {(number | null)[]} */ at) =>
              at.map((v) => (v === null ? "" : this.words(v).replace("≤ ", ""))),
          },
        ],
        series: [
          {},
          ...this.lines.map((line) => ({
            stroke: color(line.color),
            width: 2,
            dash: line.dash,
            spanGaps: false,
            points: { show: false },
          })),
        ],
      },
      data,
      this.place,
    );
  }

  /** The colours are another scheme's now. */
  forget() {
    this.plot?.destroy();
    this.plot = null;
  }
}

const HEIGHT = 132;

/** @param {number | null} value */
const drawn = (value) => (value === Infinity ? LATENCY_MAX_NS : value);

/** Order flow and latency, drawn for as long as they are seen. */
export class Plots {
  constructor() {
    const perSecond = (/** @type {number} */ n) => short(Math.round(n));
    const latency = (/** @type {number} */ ns) => (ns > 1_000_000_000 ? "> 1 s" : `≤ ${span(ns)}`);
    const from0 = {
      range: (/** @type {any} */ _, /** @type {number} */ _min, /** @type {number} */ max) => [
        0,
        Math.max(10, (max ?? 0) * 1.1),
      ],
    };
    this.plots = [
      new Plot(
        "Orders and events a second",
        [
          { name: "admitted", color: "--admitted", series: 0 },
          { name: "denied", color: "--denied", series: 1, dash: [5, 4] },
          { name: "all events", color: "--fills", series: 2, dash: [2, 3] },
        ],
        perSecond,
        from0,
      ),
      new Plot(
        "Latency, receipt to decision",
        [
          { name: "half", color: "--admitted", series: 3 },
          { name: "99 of 100", color: "--fills", series: 4, dash: [5, 4] },
        ],
        latency,
        {
          distr: 3,
          range: (/** @type {any} */ _, /** @type {number} */ min, /** @type {number} */ max) => [
            Math.min(1_000, min ?? 1_000),
            Math.max(10_000_000, max ?? 0),
          ],
        },
        [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000],
      ),
    ];
    this.elements = this.plots.map((plot) => plot.element);
    this.drawn = -1;
    this.at = 0;
    // Another width is another drawing, news or not.
    const resized = new ResizeObserver(() => {
      this.drawn = -1;
      this.at = 0;
    });
    for (const plot of this.plots) resized.observe(plot.place);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
      for (const plot of this.plots) plot.forget();
      this.drawn = -1;
    });
  }

  /** @param {import("./store.js").History} history @param {boolean} vouched */
  show(history, vouched) {
    const now = performance.now();
    const state = history.version * 2 + Number(vouched);
    if (state === this.drawn || now - this.at < EVERY_MS || history.seconds.length === 0) return;
    this.drawn = state;
    this.at = now;
    for (const plot of this.plots) plot.show(history, vouched);
  }
}
