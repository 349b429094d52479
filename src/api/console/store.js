// What is known, by scope, and how it changes. Nothing of the page is touched from here: views look when they are asked to.

import { scopeKey } from "./format.js";

/**
 * @typedef {import("./types.js").State} State
 * @typedef {import("./types.js").Halt} Halt
 * @typedef {import("./types.js").LimitRow} LimitRow
 * @typedef {import("./types.js").ScopeRow} ScopeRow
 * @typedef {import("./types.js").ScopeState} ScopeState
 * @typedef {import("./types.js").Severity} Severity
 */

/**
 * From this use on a scope is shown as a warning. Lower warning levels are for the log: a list where half is amber says nothing.
 */
const WARN_PERCENT = 75;

/** Severities, ascending. @type {Severity[]} */
export const SEVERITIES = ["normal", "warn", "breach", "reduce_only", "halted"];

/** Kinds in the order in which people look for them. */
export const KINDS = ["firm", "account", "strategy", "session", "instrument", "pair"];

/** Seconds of history that plots have. */
export const HISTORY_S = 300;

/** How a limit's use is to be taken. @param {LimitRow} row @returns {Severity} */
export function limitSeverity(row) {
  const percent = row.utilisation_percent;
  if (percent === null) return "normal";
  if (percent >= 100) return "breach";
  return percent >= WARN_PERCENT ? "warn" : "normal";
}

/** How a scope is to be taken by itself; what stands above it is told apart. @param {ScopeRow} row @returns {Severity} */
export function scopeSeverity(row) {
  if (row.mode === "halted" || row.mode === "reduce_only") return row.mode;
  const percent = row.worst?.percent ?? 0;
  if (percent >= 100) return "breach";
  return percent >= WARN_PERCENT ? "warn" : "normal";
}

export class Store {
  constructor() {
    /** @type {State | null} */
    this.state = null;
    /** The server's time of the last news. */
    this.at = "";
    /** The same in ms. */
    this.atMs = 0;
    /** @type {import("./types.js").EngineHealth | null} */
    this.engine = null;
    /** @type {Map<string, ScopeState>} */
    this.scopes = new Map();
    /** @type {Map<string, import("./types.js").SessionRow>} */
    this.sessions = new Map();
    /** @type {Map<string, Halt>} */
    this.halts = new Map();
    /** Grows with every change of a mode or of the list of scopes, so that views know when to sort at once. */
    this.modeChanges = 0;
    /** Grows with every event. */
    this.version = 0;
    this.history = new History();
    /** What stands over a scope's limits, in a few words, by its key. @type {Map<string, string>} */
    this.standing = new Map();
    /** Scopes by severity. @type {Record<Severity, number>} */
    this.counts = { normal: 0, warn: 0, breach: 0, reduce_only: 0, halted: 0 };
  }

  /** The whole state, or what changed of it. @param {import("./types.js").StreamEvent} event */
  take(event) {
    if (event.state) {
      this.state = event.state;
      this.scopes.clear();
      this.sessions.clear();
      this.counts = { normal: 0, warn: 0, breach: 0, reduce_only: 0, halted: 0 };
      this.modeChanges += 1;
    } else if (event.set && this.state) {
      Object.assign(this.state, event.set);
    }
    this.at = event.at;
    this.atMs = event.at_ms;
    this.engine = event.engine;
    for (const row of event.sessions ?? []) this.sessions.set(row.name, row);
    for (const row of event.scopes ?? []) this.takeScope(row);
    for (const gone of event.gone ?? []) this.forget(scopeKey(gone));
    if (this.state && (event.state || event.set?.halts)) {
      this.halts = new Map(this.state.halts.map((halt) => [scopeKey(halt.scope), halt]));
      this.modeChanges += 1;
    }
    if (this.state && (event.state || event.set?.overrides || event.set?.probation))
      this.standing = standingOver(this.state);
    if (this.state) this.history.take(event.at_ms, this.state.flow);
    this.version += 1;
  }

  /** @param {ScopeRow} row */
  takeScope(row) {
    const key = scopeKey(row);
    const severity = scopeSeverity(row);
    const known = this.scopes.get(key);
    this.counts[severity] += 1;
    if (!known) {
      const scope = { kind: row.kind, name: row.name };
      const rank = SEVERITIES.indexOf(severity);
      this.scopes.set(key, { key, scope, row, severity, rank, percent: row.worst?.percent ?? 0 });
      this.modeChanges += 1;
      return;
    }
    this.counts[known.severity] -= 1;
    if (known.row.mode !== row.mode || known.row.in_force !== row.in_force) this.modeChanges += 1;
    known.row = row;
    known.severity = severity;
    known.rank = SEVERITIES.indexOf(severity);
    known.percent = row.worst?.percent ?? 0;
  }

  /** @param {string} key */
  forget(key) {
    const known = this.scopes.get(key);
    if (!known) return;
    this.counts[known.severity] -= 1;
    this.scopes.delete(key);
    this.modeChanges += 1;
  }

  /** @returns {string} */
  firmMode() {
    return this.state?.mode ?? "unknown";
  }
}

/** Overrides and probations by the scope they are of: whoever looks at it has to see that its limits are others. @param {State} state */
function standingOver(state) {
  /** @type {Map<string, string[]>} */
  const texts = new Map();
  const add = (/** @type {import("./types.js").ScopeName} */ scope, /** @type {string} */ text) => {
    const known = texts.get(scopeKey(scope));
    if (known) known.push(text);
    else texts.set(scopeKey(scope), [text]);
  };
  for (const one of state.probation) add(one.scope, `probation ${one.fraction_percent} %`);
  /** @type {Map<string, { scope: import("./types.js").ScopeName, n: number }>} */
  const overrides = new Map();
  for (const { scope } of state.overrides) {
    const known = overrides.get(scopeKey(scope));
    if (known) known.n += 1;
    else overrides.set(scopeKey(scope), { scope, n: 1 });
  }
  for (const { scope, n } of overrides.values()) add(scope, n === 1 ? "override" : `${n} overrides`);
  return new Map([...texts].map(([key, list]) => [key, list.join(", ")]));
}

/** What is plotted, a point per second. Seconds without news have no values: a line is not drawn over them. */
export class History {
  constructor() {
    /** Unix seconds. @type {number[]} */
    this.seconds = [];
    /** Admitted, denied, all events per second; latency of half and of 99 in a hundred, in ns. @type {(number | null)[][]} */
    this.series = [[], [], [], [], []];
    this.version = 0;
  }

  /** @param {number} atMs @param {import("./types.js").Flow} flow */
  take(atMs, flow) {
    const latency = flow.latency_ns;
    const beyond = (/** @type {number | null} */ ns) => ns ?? Infinity;
    this.push(Math.floor(atMs / 1_000), [
      flow.admitted_per_second,
      flow.denied_per_second,
      flow.events_per_second,
      latency && beyond(latency.p50),
      latency && beyond(latency.p99),
    ]);
  }

  /** Nothing is known of the seconds since the last news. @param {number} atMs */
  gap(atMs) {
    if (this.seconds.length > 0)
      this.push(
        Math.floor(atMs / 1_000),
        this.series.map(() => null),
      );
  }

  /** @param {number} second @param {(number | null)[]} values */
  push(second, values) {
    const last = this.seconds.at(-1);
    if (last !== undefined && second <= last) {
      // A clock that was set back far begins a new history; the rest is the same second again.
      if (last - second < HISTORY_S) return;
      this.seconds.length = 0;
      for (const series of this.series) series.length = 0;
    }
    if (last !== undefined && second > last + 2)
      this.add(
        last + 1,
        this.series.map(() => null),
      );
    this.add(second, values);
    const from = this.seconds.findIndex((at) => at > second - HISTORY_S);
    if (from > 0) {
      this.seconds.splice(0, from);
      for (const series of this.series) series.splice(0, from);
    }
    this.version += 1;
  }

  /** @param {number} second @param {(number | null)[]} values */
  add(second, values) {
    this.seconds.push(second);
    this.series.forEach((series, i) => series.push(values[i] ?? null));
  }
}

/** @param {Record<string, number>} numbers */
export const sum = (numbers) => Object.values(numbers).reduce((total, n) => total + n, 0);
