// Numbers, times and scopes in the words of the rest of haltline.

/** @typedef {import("./types.js").ScopeName} ScopeName */

const GROUPS = new Intl.NumberFormat("en-US");
const SHORT = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });

/** A whole number with separators. @param {number} n */
export const count = (n) => GROUPS.format(n);

/** A number in three digits. @param {number} n */
export const short = (n) => SHORT.format(n);

/** A decimal text with separators in front of its point; digits are never rounded. @param {string} text */
export function decimal(text) {
  const match = /^(-?)(\d+)(\.\d+)?$/.exec(text);
  if (!match) return text;
  const [, sign, whole, rest = ""] = match;
  return sign + whole.replace(/\B(?=(\d{3})+$)/g, ",") + rest;
}

/** A time span given in nanoseconds. @param {number} ns */
export function span(ns) {
  if (ns < 1_000) return `${Math.round(ns)} ns`;
  if (ns < 1_000_000) return `${trim(ns / 1_000)} µs`;
  if (ns < 1_000_000_000) return `${trim(ns / 1_000_000)} ms`;
  return seconds(ns / 1_000_000_000);
}

/** A time span given in seconds. @param {number} s */
export function seconds(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7_200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3_600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** @param {number} n */
const trim = (n) => String(Number(n.toPrecision(3)));

/** The time of day of an RFC 3339 time, in UTC as everywhere in haltline. @param {string} at */
export function clock(at) {
  const match = /T(\d\d:\d\d:\d\d)(\.\d{1,3})?/.exec(at);
  return match ? match[1] : at;
}

/** With milliseconds. @param {string} at */
export function clockMs(at) {
  const match = /T(\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?/.exec(at);
  return match ? `${match[1]}.${(match[2] ?? "0").padEnd(3, "0")}` : at;
}

/** Time of day, and the date if it is another than today's. @param {string} at */
export function moment(at) {
  const today = new Date().toISOString().slice(0, 10);
  return at.startsWith(today) ? clock(at) : `${at.slice(0, 10)} ${clock(at)}`;
}

/** `firm`, or kind and name. @param {ScopeName} scope */
export const scopeText = (scope) => (scope.name ? `${scope.kind} ${scope.name}` : scope.kind);

/** @param {ScopeName} scope */
export const scopeKey = (scope) => `${scope.kind}/${scope.name}`;

/** A mode as a person says it. @param {string} mode */
export const modeText = (mode) => (mode === "reduce_only" ? "reduce-only" : mode);

/** A rule as a person says it. @param {string} rule */
export const ruleText = (rule) => rule.replaceAll("_", " ");

/** What follows a value, for units that are words of the program. @type {Record<string, string>} */
const UNITS = {
  "": "",
  count: "",
  seq: "",
  mode: "",
  none: "",
  bps: " bp",
  seconds: " s",
  qty: "",
  qty_units: "",
  px: "",
  px_units: "",
};

/** A value with its unit, as short as it can be said exactly enough. @param {string} value @param {string} unit */
export function amount(value, unit) {
  const text = decimal(value);
  return UNITS[unit] === undefined ? `${text} ${unit}` : `${text}${UNITS[unit]}`;
}

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : (many ?? `${one}s`)}`;
