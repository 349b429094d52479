// Whether what the page shows may be believed. Nothing here is ever "probably fine": what cannot be vouched for is not live.

/** No news for this long, and the page says so. */
export const STALE_MS = 2_000;

/** News that is this much later than the quickest seen is held up somewhere on the way. */
export const LATE_MS = 2_000;

/** No two clocks run alike: one may run faster by this part, and nothing is called late. */
const CLOCKS_DIFFER = 0.001;

/**
 * @typedef {"live" | "stale" | "late" | "engine" | "disconnected" | "connecting"} Word
 * `for` is how long it is so, or how late; apart from `text`, which is read out when it changes.
 * @typedef {{ word: Word, ageMs: number | null, text: string, for: string, why: string }} Verdict
 */

/** Keeps the times of what arrives, and judges them. Times are those of a monotonic clock, in ms. */
export class Freshness {
  constructor() {
    this.connected = false;
    /** @type {number | null} */
    this.last = null;
    /** Why there is no connection. */
    this.why = "";
    /** The engine's age when it was told, in ms; null: it has not made a round yet. @type {number | null} */
    this.engineAge = null;
    this.engineStale = false;
    /** The least difference between this clock and the server's that was seen. */
    this.quickest = Infinity;
    this.lag = 0;
  }

  /** Something was heard at `now` that the server made at `serverMs` of its wall clock. @param {number} now @param {number} serverMs */
  heard(now, serverMs) {
    const before = this.last ?? now;
    this.connected = true;
    this.last = now;
    if (!Number.isFinite(serverMs)) return;
    const difference = now - serverMs;
    this.quickest = Math.min(this.quickest + (now - before) * CLOCKS_DIFFER, difference);
    this.lag = difference - this.quickest;
  }

  /** @param {boolean} stale @param {number | null} ageMs */
  engine(stale, ageMs) {
    this.engineStale = stale;
    this.engineAge = ageMs;
  }

  /** The connection is gone. @param {string} why */
  lost(why) {
    this.connected = false;
    this.why = why;
    // The server may be another one, with another clock, when it is back.
    this.quickest = Infinity;
    this.lag = 0;
  }

  /** @param {number} now @returns {Verdict} */
  verdict(now) {
    const ageMs = this.last === null ? null : Math.max(0, now - this.last);
    const age = ageMs === null ? "" : `${(ageMs / 1_000).toFixed(1)} s`;
    if (!this.connected) {
      if (this.last === null) return { word: "connecting", ageMs, text: "Connecting", for: "", why: this.why };
      return { word: "disconnected", ageMs, text: "Disconnected", for: age, why: this.why };
    }
    if (ageMs === null || ageMs > STALE_MS) {
      return {
        word: "stale",
        ageMs,
        text: "Stale",
        for: age,
        why: "What is shown is old. A kill can be pressed all the same.",
      };
    }
    if (this.lag > LATE_MS) {
      const late = (this.lag / 1_000).toFixed(1);
      return { word: "late", ageMs, text: "Late", for: `${late} s`, why: "What arrives is held up on its way." };
    }
    if (this.engineStale) {
      const round =
        this.engineAge === null
          ? "It has made no round yet."
          : `Its last round was ${(this.engineAge / 1_000).toFixed(1)} s ago.`;
      return {
        word: "engine",
        ageMs,
        text: "Engine stands still",
        for: "",
        why: `${round} Figures are old; a kill still works.`,
      };
    }
    return { word: "live", ageMs, text: "Live", for: "", why: "" };
  }
}
