// The use of each limit, the most used first.

import { may, problemText } from "./client.js";
import { h, KeyedList, scrolling, setText, show } from "./dom.js";
import { amount, count, plural, ruleText, scopeKey, scopeText, seconds, span } from "./format.js";
import { openOverride } from "./overrides.js";
import { useBar } from "./scopes.js";
import { KINDS, limitSeverity } from "./store.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").LimitRow} LimitRow */

const ASK_MS = 2_000;
/** Rows asked for at once, and pages of them. */
const PAGE_ROWS = 5_000;
const PAGES_MAX = 10;
/** Rows that are shown; the rest is counted. */
const SHOWN = 200;

/** What a breach does, in words. @param {LimitRow["action"]} action */
function actionText(action) {
  if (action.do === "deny") return "denies";
  const whom = action.scope === "own" ? "it" : `the ${action.scope ?? "scope"}`;
  return action.do === "halt" ? `halts ${whom}` : `lets ${whom} only reduce`;
}

/** @param {LimitRow} row */
const windowText = (row) => (row.window_ns ? ` per ${span(row.window_ns)}` : "");

/** What stands over a limit: it is not what the file says. @param {Context} context @param {LimitRow} row */
function standingOver(context, row) {
  const state = context.store.state;
  const key = scopeKey(row.scope);
  const one = state?.overrides.find(
    (one) => one.rule === row.rule && scopeKey(one.scope) === key && (one.window_ns ?? row.window_ns) === row.window_ns,
  );
  if (one)
    return `override by ${one.by}: ${amount(one.configured, "")} configured, ${seconds(one.seconds_left ?? 0)} left`;
  const probation = state?.probation.find((one) => scopeKey(one.scope) === key);
  return probation ? `its scope is on probation at ${probation.fraction_percent} %` : "";
}

/**
 * A table of limits that is kept up to date.
 * @param {Context} context
 * @param {boolean} withScope @param {((row: LimitRow) => void) | null} [override] what a button of a row does
 */
export function limitRows(context, withScope, override = null) {
  const body = h("tbody");
  /** @type {WeakMap<HTMLElement, { use: ReturnType<typeof useBar>, numbers: HTMLElement, standing: HTMLElement }>} */
  const parts = new WeakMap();
  let vouched = true;
  /** @type {KeyedList<LimitRow>} */
  const list = new KeyedList(
    body,
    (row) => `${scopeKey(row.scope)} ${row.rule} ${row.window_ns ?? ""} ${row.kind ?? ""} ${row.limit}`,
    (row) => {
      const use = useBar();
      const numbers = h("td", { class: "tight num right" });
      const standing = h("div", { class: "standing", hidden: true });
      const element = h(
        "tr",
        {},
        withScope &&
          h("td", { class: "tight" }, h("span", { class: "muted" }, row.scope.kind, " "), h("b", {}, row.scope.name)),
        h("td", {}, ruleText(row.rule), h("span", { class: "muted" }, windowText(row)), standing),
        h("td", {}, use.element),
        numbers,
        h("td", { class: "tight muted" }, actionText(row.action)),
        override &&
          h(
            "td",
            { class: "right" },
            h(
              "button",
              {
                type: "button",
                class: "small quiet",
                "aria-label": `Override ${ruleText(row.rule)} of ${scopeText(row.scope)}`,
                onclick: () => override(row),
              },
              "Override…",
            ),
          ),
      );
      parts.set(element, { use, numbers, standing });
      return element;
    },
    (element, row) => {
      const part = parts.get(element);
      if (!part) return;
      part.use.update(vouched ? row.utilisation_percent : null, limitSeverity(row));
      const over = standingOver(context, row);
      show(part.standing, over !== "");
      setText(part.standing, over);
      const observed = row.observed === null ? "each order" : amount(row.observed, "");
      setText(part.numbers, `${observed} / ${amount(row.limit, row.unit)}`);
    },
  );
  const heads = [
    ...(withScope ? ["Scope"] : []),
    "Limit",
    "In use",
    ">Observed / limit",
    "A breach",
    ...(override ? [""] : []),
  ];
  const element = scrolling("Limits", heads, body);
  return {
    element,
    /** @param {LimitRow[]} rows @param {boolean} live */
    show(rows, live) {
      vouched = live;
      list.show([...rows].sort((a, b) => (b.utilisation_percent ?? -1) - (a.utilisation_percent ?? -1)));
    },
  };
}

export class LimitsView {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.id = "limits";
    this.title = "Limits";
    this.timer = 0;
    this.asking = false;
    /** As what the rows were last shown. */
    this.shown = "";
    /** @type {LimitRow[]} */
    this.rows = [];
    this.said = h("p", { class: "said", role: "alert" });
    this.total = h("span", { class: "muted num", role: "status" });
    this.search = h("input", {
      type: "search",
      class: "search",
      placeholder: "Scope or limit",
      "aria-label": "Find by scope or limit",
      spellcheck: false,
      oninput: () => this.show(),
    });
    this.kind = h(
      "select",
      { class: "search", "aria-label": "Kind of scope", onchange: () => void this.look() },
      h("option", { value: "" }, "All kinds"),
      KINDS.map((kind) => h("option", { value: kind }, kind)),
    );
    const overrides = context.found.has("overrides") && may(context.client.me, "risk");
    this.table = limitRows(context, true, overrides ? (row) => openOverride(context, row) : null);
    this.more = h("p", { class: "empty", hidden: true });
    this.element = h(
      "div",
      { class: "stack" },
      this.said,
      h(
        "section",
        { class: "panel" },
        h("header", {}, h("h2", {}, "Limits, the most used first"), this.total, this.kind, this.search),
        this.table.element,
        this.more,
      ),
    );
  }

  enter() {
    void this.look();
    this.timer = window.setInterval(() => void this.look(), ASK_MS);
  }

  leave() {
    clearInterval(this.timer);
  }

  async look() {
    if (this.asking) return;
    this.asking = true;
    try {
      const kind = this.kind.value ? `&kind=${this.kind.value}` : "";
      const rows = [];
      let from = 0;
      let generation = 0;
      for (let page = 0; page < PAGES_MAX; page += 1) {
        const answer = await this.context.client.get(`/v1/limits?rows=${PAGE_ROWS}&from=${from}${kind}`);
        rows.push(...answer.limits);
        generation = answer.generation;
        if (answer.next === null) break;
        from = answer.next;
      }
      this.rows = rows;
      setText(this.total, `generation ${count(generation)}`);
      setText(this.said, "");
      this.show();
    } catch (error) {
      setText(this.said, `${problemText(error)} What is shown is old.`);
    } finally {
      this.asking = false;
    }
  }

  show() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = this.rows.filter(
      (row) => !wanted || `${scopeText(row.scope)} ${ruleText(row.rule)}`.toLowerCase().includes(wanted),
    );
    found.sort((a, b) => (b.utilisation_percent ?? -1) - (a.utilisation_percent ?? -1));
    this.table.show(found.slice(0, SHOWN), this.context.verdict.word === "live");
    show(this.more, found.length > SHOWN);
    setText(this.more, `The ${SHOWN} most used of ${plural(found.length, "limit")} are shown: search for the others.`);
  }

  /** @param {boolean} changed */
  frame(changed) {
    if (changed && this.context.verdict.word !== this.shown) this.show();
    this.shown = this.context.verdict.word;
  }
}
