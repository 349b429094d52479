// The overview: every scope at a glance, in a map that stays as it is and in a list with the worst on top.

import { may } from "./client.js";
import { fill, h, KeyedList, setAttribute, setText, show, VirtualList } from "./dom.js";
import { openDialog } from "./dialog.js";
import { amount, count, modeText, moment, plural, ruleText, scopeKey, scopeText } from "./format.js";
import { causeLine, haltRow } from "./halts.js";
import { openKill } from "./kill.js";
import { limitRows } from "./limits.js";
import { Plots } from "./plots.js";
import { openRearm } from "./rearm.js";
import { alertLevel, alertState, isUnanswered } from "./records.js";
import { KINDS, sum } from "./store.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").ScopeState} ScopeState */

/** The list is sorted by use this often at most; a change of a mode sorts it at once. */
const SORT_MS = 1_000;
/** A row has this height on a narrow page, and the other on a wide one: see the style. */
const ROW_PX = { narrow: 78, wide: 38 };
const NARROW = matchMedia("(max-width: 720px)");

/** What a scope's state is called, and as what it is shown. @param {ScopeState} known @param {boolean} vouched */
export function stateOf(known, vouched) {
  const own = known.row.mode;
  const above = known.row.in_force;
  // What is in force counts: a scope that may reduce sends nothing while the firm is halted.
  if (own !== "normal" && own === above)
    return { severity: known.severity, text: vouched ? modeText(own) : `was ${modeText(own)}` };
  if (above !== "normal") return { severity: above, text: `${modeText(above)} above` };
  if (!vouched) return { severity: "unknown", text: "unknown" };
  if (known.severity === "breach") return { severity: "breach", text: "over limit" };
  if (known.severity === "warn") return { severity: "warn", text: "warning" };
  return { severity: "normal", text: "normal" };
}

/** How an element shows how much of a limit is used. */
export function useBar() {
  const fillElement = h("i");
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, fillElement);
  const percent = h("span", { class: "percent num" });
  const element = h("span", { class: "use" }, bar, percent);
  /** @param {number | null} value @param {string} severity */
  const update = (value, severity) => {
    setText(percent, value === null ? "–" : `${value >= 1_000 ? "> 999" : value.toFixed(value < 10 ? 1 : 0)} %`);
    setAttribute(bar, "data-severity", severity);
    setAttribute(percent, "data-severity", severity);
    const scaled = `scaleX(${Math.min(1, Math.max(0, (value ?? 0) / 100)).toFixed(3)})`;
    if (fillElement.style.transform !== scaled) fillElement.style.transform = scaled;
  };
  return { element, update };
}

export class Overview {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.id = "overview";
    this.title = "Overview";
    this.plots = new Plots();
    this.halts = h("div");
    this.haltsTitle = h("h2", {}, "Halts in force");
    this.haltsPanel = h("section", { class: "panel", hidden: true }, h("header", {}, this.haltsTitle), this.halts);
    this.haltList = haltRow(context, this.halts);
    this.scopes = new ScopesPanel(context);
    this.figures = new Figures();
    this.alerts = h("div");
    const alertsPanel = h("section", { class: "panel" }, h("header", {}, h("h2", {}, "Newest alerts")), this.alerts);
    this.alertList = alertLines(this.alerts);
    this.noAlerts = h("p", { class: "empty" }, "None since the start.");
    alertsPanel.append(this.noAlerts);
    this.element = h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, this.haltsPanel, this.scopes.element),
      h("div", { class: "stack" }, this.figures.element, ...this.plots.elements, alertsPanel),
    );
  }

  enter() {
    this.scopes.sortedAt = 0;
  }

  /** @param {boolean} changed */
  frame(changed) {
    const { store, verdict } = this.context;
    const vouched = verdict.word === "live";
    if (changed) {
      show(this.haltsPanel, store.halts.size > 0);
      setText(this.haltsTitle, vouched ? "Halts in force" : "Halts in force when haltline was last heard");
      this.haltList(store.halts.values());
      this.figures.show(this.context);
      const alerts = store.state?.alerts ?? [];
      show(this.noAlerts, alerts.length === 0);
      this.alertList(alerts.slice(0, 6));
    }
    this.scopes.frame(changed);
    this.plots.show(store.history, vouched);
  }
}

/** @param {Element} parent */
function alertLines(parent) {
  /** @type {KeyedList<import("./types.js").Alert>} */
  const list = new KeyedList(
    parent,
    (alert) => `${alert.number} ${alert.state} ${alert.last_at}`,
    (alert) =>
      h(
        "div",
        { class: "alert-line" },
        h("b", {}, alert.name.replaceAll("_", " ")),
        " ",
        h("span", { class: "chip", "data-level": isUnanswered(alert) ? alertLevel(alert) : "" }, alert.severity),
        " ",
        h(
          "span",
          { class: isUnanswered(alert) ? "chip" : "muted" },
          isUnanswered(alert) ? "unanswered" : alertState(alert),
        ),
        " ",
        h("span", { class: "muted num" }, moment(alert.last_at)),
        h("p", {}, alert.text),
      ),
    () => {},
  );
  return (/** @type {Iterable<import("./types.js").Alert>} */ alerts) => list.show(alerts);
}

/** The totals. */
class Figures {
  constructor() {
    /** @type {Record<string, HTMLElement>} */
    this.values = {};
    const one = (/** @type {string} */ name) => {
      this.values[name] = h("dd", {}, "–");
      return h("div", {}, h("dt", {}, name), this.values[name]);
    };
    this.element = h(
      "section",
      { class: "panel" },
      h("header", {}, h("h2", {}, "Firm")),
      h(
        "dl",
        { class: "figures" },
        ["Working orders", "Admitted", "Denied", "Trips", "Sessions", "In the queue"].map(one),
      ),
    );
  }

  /** @param {Context} context */
  show(context) {
    const { store } = context;
    const state = store.state;
    if (!state) return;
    const denied = sum(state.totals.denied);
    const trips = sum(state.totals.trips);
    let connected = 0;
    let sessions = 0;
    for (const session of store.sessions.values()) {
      // Haltline's own is there for a drill only.
      if (session.own) continue;
      connected += Number(session.connected);
      sessions += 1;
    }
    this.set("Working orders", count(state.totals.working_orders));
    this.set("Admitted", count(state.totals.admitted));
    this.set("Denied", count(denied), denied > 0 ? "warn" : "");
    this.set("Trips", count(trips), trips > 0 ? "danger" : "");
    this.set("Sessions", `${count(connected)} / ${count(sessions)}`, connected < sessions ? "warn" : "");
    this.set("In the queue", count(store.engine?.queue_depth ?? 0));
  }

  /** @param {string} name @param {string} text @param {string} [level] */
  set(name, text, level = "") {
    setText(this.values[name], text);
    setAttribute(this.values[name], "data-level", level);
  }
}

class ScopesPanel {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.kind = "";
    this.sortedAt = 0;
    this.sortedChanges = -1;
    this.pointed = false;
    /** @type {ScopeState[]} */
    this.sorted = [];
    this.search = h("input", {
      type: "search",
      class: "search",
      placeholder: "Find a scope",
      "aria-label": "Find a scope by name",
      spellcheck: false,
      oninput: () => this.sortNow(),
    });
    const kinds = h(
      "div",
      { class: "kinds", role: "group", "aria-label": "Kinds of scopes" },
      [
        ["", "All"],
        ["account", "Accounts"],
        ["strategy", "Strategies"],
        ["session", "Sessions"],
        ["instrument", "Instruments"],
      ].map(([kind, text]) =>
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(kind === ""),
            onclick: (/** @type {Event} */ event) => this.choose(kind, event),
          },
          text,
        ),
      ),
    );
    this.total = h("span", { class: "muted num", role: "status" });
    this.held = h("span", { class: "held", hidden: true }, "order held");
    this.held.title = "While you point at the list it is not sorted anew.";
    this.map = new ScopeMap(context);
    this.body = h("div", { class: "rows-body", role: "rowgroup" });
    this.rows = h(
      "div",
      { class: "rows", tabIndex: 0, role: "table", "aria-label": "Scopes, the worst first" },
      this.body,
    );
    const head = h(
      "div",
      { class: "rows-head", "aria-hidden": "true" },
      ["State", "Scope", "Most used limit", "In use / limit", ""].map((text) => h("span", {}, text)),
    );
    this.element = h(
      "section",
      { class: "panel scopes" },
      h("header", {}, h("h2", {}, "Scopes"), this.held, this.total, kinds, this.search),
      this.map.element,
      head,
      this.rows,
    );
    // What a person is about to press must not become another.
    this.rows.addEventListener("pointerenter", (event) => {
      this.pointed = event.pointerType === "mouse";
    });
    this.rows.addEventListener("pointerleave", () => {
      this.pointed = false;
    });
    this.list = new VirtualList(this.rows, this.body, {
      rowHeight: () => (NARROW.matches ? ROW_PX.narrow : ROW_PX.wide),
      key: (known) => known.key,
      make: (known) => this.make(known),
      update: (element, known) => this.update(element, known),
    });
    /** @type {WeakMap<HTMLElement, any>} */
    this.parts = new WeakMap();
  }

  /** @param {string} kind @param {Event} event */
  choose(kind, event) {
    this.kind = kind;
    const pressed = /** @type {HTMLElement} */ (event.currentTarget);
    for (const button of pressed.parentElement?.children ?? [])
      setAttribute(button, "aria-pressed", String(button === pressed));
    this.sortNow();
  }

  sortNow() {
    this.sortedAt = 0;
    this.rows.scrollTop = 0;
    this.frame(true);
  }

  /** @param {boolean} changed */
  frame(changed) {
    const { store, verdict } = this.context;
    const now = performance.now();
    const held = this.pointed || this.rows.contains(document.activeElement);
    const modesChanged = store.modeChanges !== this.sortedChanges;
    if (this.sortedAt === 0 || modesChanged || (!held && changed && now - this.sortedAt >= SORT_MS)) {
      this.sortedAt = now;
      this.sortedChanges = store.modeChanges;
      this.sort();
    }
    show(this.held, held && this.sorted.length > 0);
    if (changed || modesChanged) {
      this.list.show(this.sorted);
      this.map.show(store.scopes, verdict.word === "live");
    }
  }

  sort() {
    const { store } = this.context;
    const wanted = this.search.value.trim().toLowerCase();
    const shown = [];
    for (const known of store.scopes.values()) {
      if (this.kind && known.scope.kind !== this.kind) continue;
      if (wanted && !scopeText(known.scope).toLowerCase().includes(wanted)) continue;
      shown.push(known);
    }
    shown.sort(
      (a, b) =>
        b.rank - a.rank ||
        b.percent - a.percent ||
        KINDS.indexOf(a.scope.kind) - KINDS.indexOf(b.scope.kind) ||
        (a.scope.name < b.scope.name ? -1 : 1),
    );
    this.sorted = shown;
    setText(
      this.total,
      shown.length === store.scopes.size
        ? plural(shown.length, "scope")
        : `${count(shown.length)} of ${plural(store.scopes.size, "scope")}`,
    );
    setAttribute(this.rows, "aria-rowcount", String(shown.length + 1));
  }

  /** @param {ScopeState} known */
  make(known) {
    const { client } = this.context;
    const scope = known.scope;
    const state = h("span", { class: "state", role: "cell" });
    const name = h(
      "button",
      { type: "button", class: "name", onclick: () => openScope(this.context, scope) },
      h("span", { class: "kind" }, scope.kind, " "),
      scope.name,
    );
    const standing = h("span", { class: "chip", "data-level": "warn", hidden: true });
    const use = useBar();
    const rule = h("span", {});
    const numbers = h("span", { class: "num more", role: "cell" });
    const kill =
      may(client.me, "operator") &&
      h(
        "button",
        {
          type: "button",
          class: "small danger-quiet",
          "aria-label": `Kill ${scopeText(scope)}`,
          onclick: () => openKill(this.context, scope),
        },
        "Kill…",
      );
    const rearm =
      may(client.me, "risk") &&
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `Re-arm ${scopeText(scope)}`,
          onclick: () => openRearm(this.context, scope),
        },
        "Re-arm…",
      );
    const actions = h("span", { class: "actions", role: "cell" }, rearm, kill);
    const row = h(
      "div",
      { class: "row", role: "row" },
      state,
      h("span", { class: "named", role: "cell" }, name, standing),
      h("span", { class: "worst", role: "cell" }, rule, use.element),
      numbers,
      actions,
    );
    this.parts.set(row, { state, standing, use, rule, numbers, kill, rearm });
    return row;
  }

  /** @param {HTMLElement} element @param {ScopeState} known */
  update(element, known) {
    const { store, verdict } = this.context;
    const { state, standing, use, rule, numbers, kill, rearm } = this.parts.get(element);
    const of = stateOf(known, verdict.word === "live");
    setAttribute(state, "data-severity", of.severity);
    setText(state, of.text);
    setAttribute(element, "data-severity", known.severity);
    const over = store.standing.get(known.key);
    show(standing, over !== undefined);
    setText(standing, over ?? "");
    const worst = known.row.worst;
    const byUse = worst && worst.percent >= 100 ? "breach" : known.severity === "warn" ? "warn" : "normal";
    use.update(worst?.percent ?? null, byUse);
    setText(rule, worst ? ruleText(worst.rule) : "nothing in use");
    setText(numbers, worst ? `${amount(worst.observed ?? "–", "")} / ${amount(worst.limit, worst.unit)}` : "");
    if (kill) show(kill, known.row.mode !== "halted");
    if (rearm) show(rearm, known.row.mode !== "normal");
  }
}

/** How much is used is drawn anew this often at most; a change of a mode is drawn at once. */
const MAP_MS = 500;
/** The map's tiles. */
const TILE_PX = 11;
const GAP_PX = 2;

/**
 * A tile per scope, always at the same place: where one looks for a desk does not depend on how it does. The list says the
 * same in words.
 */
class ScopeMap {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.at = h("span", { class: "at" });
    /** The legend's tiles, drawn as those of the map are. @type {{ severity: string, canvas: HTMLCanvasElement }[]} */
    this.keys = [];
    const key = (/** @type {string} */ severity, /** @type {string} */ text) => {
      const canvas = h("canvas", {});
      this.keys.push({ severity, canvas });
      return h("span", { class: "key" }, canvas, text);
    };
    this.element = h(
      "div",
      { class: "map", "aria-hidden": "true" },
      this.canvas,
      h(
        "div",
        { class: "legend" },
        key("normal", "normal"),
        key("warn", "warning"),
        key("breach", "over limit"),
        key("reduce_only", "reduce-only"),
        key("halted", "halted"),
        key("unknown", "unknown"),
        this.at,
      ),
    );
    /** @type {ScopeState[]} */
    this.tiles = [];
    this.changes = -1;
    this.drawn = -1;
    this.drawnAt = 0;
    this.perRow = 1;
    this.canvas.addEventListener("pointermove", (event) =>
      setText(this.at, this.hit(event)?.scope ? scopeText(/** @type {ScopeState} */ (this.hit(event)).scope) : ""),
    );
    this.canvas.addEventListener("pointerleave", () => setText(this.at, ""));
    this.canvas.addEventListener("click", (event) => {
      const known = this.hit(event);
      if (known) openScope(this.context, known.scope);
    });
  }

  /** @param {MouseEvent} event */
  hit(event) {
    const step = TILE_PX + GAP_PX;
    const column = Math.floor(event.offsetX / step);
    if (column >= this.perRow) return undefined;
    return this.tiles[Math.floor(event.offsetY / step) * this.perRow + column];
  }

  /** @param {Map<string, ScopeState>} scopes @param {boolean} vouched */
  show(scopes, vouched) {
    const now = performance.now();
    const state = this.context.store.modeChanges * 2 + Number(vouched);
    if (state === this.drawn && now - this.drawnAt < MAP_MS) return;
    this.drawn = state;
    this.drawnAt = now;
    if (this.changes !== this.context.store.modeChanges) {
      this.changes = this.context.store.modeChanges;
      const kind = (/** @type {ScopeState} */ known) => KINDS.indexOf(known.scope.kind);
      this.tiles = [...scopes.values()].sort((a, b) => kind(a) - kind(b) || (a.scope.name < b.scope.name ? -1 : 1));
    }
    const width = this.canvas.clientWidth;
    if (width === 0) return;
    const step = TILE_PX + GAP_PX;
    this.perRow = Math.max(1, Math.floor((width + GAP_PX) / step));
    const height = Math.max(step, Math.ceil(this.tiles.length / this.perRow) * step);
    const ratio = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    const draw = this.canvas.getContext("2d");
    if (!draw) return;
    const colors = this.colors();
    draw.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw.clearRect(0, 0, width, height);
    this.tiles.forEach((known, i) => {
      const x = (i % this.perRow) * step;
      const y = Math.floor(i / this.perRow) * step;
      tile(draw, x, y, stateOf(known, vouched).severity, known.percent, colors);
    });
    for (const { severity, canvas } of this.keys) {
      canvas.width = canvas.height = Math.round(TILE_PX * ratio);
      const draw = canvas.getContext("2d");
      draw?.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (draw) tile(draw, 0, 0, severity, 50, colors);
    }
  }

  /** The colours of the scheme that is seen now. */
  colors() {
    const style = getComputedStyle(this.canvas);
    const color = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    return {
      normal: color("--bar"),
      warn: color("--amber"),
      breach: color("--red"),
      reduce_only: color("--amber"),
      halted: color("--red-fill"),
      unknown: color("--line"),
      white: color("--on-fill"),
    };
  }
}

/**
 * One tile. Each state has its own shape: filled to its use, notched, a triangle, a diamond, a cross, a frame.
 * @param {CanvasRenderingContext2D} draw @param {number} x @param {number} y @param {string} severity @param {number} percent
 * @param {Record<string, string>} colors
 */
function tile(draw, x, y, severity, percent, colors) {
  const s = TILE_PX;
  const path = (/** @type {number[][]} */ points) => {
    draw.beginPath();
    points.forEach(([px, py], i) => (i === 0 ? draw.moveTo(x + px, y + py) : draw.lineTo(x + px, y + py)));
    draw.closePath();
  };
  draw.lineWidth = 1;
  if (severity === "unknown") {
    draw.strokeStyle = colors.normal;
    draw.setLineDash([2, 2]);
    draw.strokeRect(x + 0.5, y + 0.5, s - 1, s - 1);
    draw.setLineDash([]);
  } else if (severity === "normal") {
    draw.fillStyle = colors.unknown;
    draw.fillRect(x, y, s, s);
    const used = Math.min(1, percent / 100) * s;
    draw.fillStyle = colors.normal;
    draw.fillRect(x, y + s - used, s, used);
  } else if (severity === "halted") {
    draw.fillStyle = colors.halted;
    draw.fillRect(x, y, s, s);
    draw.strokeStyle = colors.white;
    draw.lineWidth = 1.5;
    draw.beginPath();
    draw.moveTo(x + 3, y + 3);
    draw.lineTo(x + s - 3, y + s - 3);
    draw.moveTo(x + s - 3, y + 3);
    draw.lineTo(x + 3, y + s - 3);
    draw.stroke();
  } else if (severity === "reduce_only") {
    path([
      [s / 2, 0],
      [s, s / 2],
      [s / 2, s],
      [0, s / 2],
    ]);
    draw.fillStyle = colors.reduce_only;
    draw.fill();
  } else {
    path([
      [s / 2, 0],
      [s, s],
      [0, s],
    ]);
    if (severity === "breach") {
      draw.fillStyle = colors.breach;
      draw.fill();
    } else {
      draw.strokeStyle = colors.warn;
      draw.lineWidth = 2;
      draw.stroke();
    }
  }
}

/** Everything about one scope, as it goes on. @param {Context} context @param {import("./types.js").ScopeName} scope */
export function openScope(context, scope) {
  const { client } = context;
  const said = h("p", { class: "said", role: "alert" });
  const state = h("p", { class: "state" });
  const causes = h("ul", { class: "causes" });
  const working = h("dd", { class: "num" });
  const table = limitRows(context, false);
  const query = `kind=${encodeURIComponent(scope.kind)}${scope.name ? `&name=${encodeURIComponent(scope.name)}` : ""}`;
  const look = async () => {
    try {
      const answer = await client.get(`/v1/limits?${query}`);
      table.show(answer.limits, context.verdict.word === "live");
      setText(said, "");
    } catch (error) {
      setText(said, error instanceof Error ? error.message : String(error));
    }
  };
  const refresh = () => {
    const known = context.store.scopes.get(scopeKey(scope));
    const of = known
      ? stateOf(known, context.verdict.word === "live")
      : { severity: "unknown", text: "idle: nothing in use" };
    setAttribute(state, "data-severity", of.severity);
    setText(state, of.text);
    setText(working, known ? count(known.row.working) : "0");
    const halt = context.store.halts.get(scopeKey(scope));
    fill(causes, (halt?.causes ?? []).map(causeLine));
    show(causes, halt !== undefined);
    show(kill, may(client.me, "operator") && known?.row.mode !== "halted");
    show(rearm, may(client.me, "risk") && halt !== undefined);
  };
  const kill = h(
    "button",
    { type: "button", class: "kill", onclick: () => (close(), openKill(context, scope)) },
    `Kill ${scopeText(scope)}…`,
  );
  const rearm = h("button", { type: "button", onclick: () => (close(), openRearm(context, scope)) }, "Re-arm…");
  const timer = setInterval(() => (refresh(), void look()), 1_000);
  const { close } = openDialog(
    { title: scopeText(scope), onClose: () => clearInterval(timer) },
    h(
      "div",
      { class: "content" },
      state,
      causes,
      h("dl", { class: "facts" }, h("dt", {}, "Working orders"), working),
      table.element,
      said,
    ),
    h("footer", {}, rearm, kill),
  );
  refresh();
  void look();
}
