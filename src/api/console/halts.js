// Halts in force, re-arms that wait for a second person, and the receipts of kills.

import { may, problemText } from "./client.js";
import { h, KeyedList, scrolling, setAttribute, setText, show } from "./dom.js";
import { amount, modeText, moment, plural, scopeText } from "./format.js";
import { openApprove, openRearm } from "./rearm.js";
import { openReceipt } from "./receipt.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").Halt} Halt */
/** @typedef {import("./types.js").Rearm} Rearm */
/** @typedef {import("./types.js").Receipt} Receipt */

/** How often receipts and re-arms are asked for while they are seen. */
const ASK_MS = 1_000;
/** Receipts that are listed. */
const RECEIPTS = 50;

/** Who or what caused a halt, in one line. @param {import("./types.js").Cause} cause */
export function causeLine(cause) {
  const { trip } = cause;
  const numbers = trip && ` (${amount(trip.observed, "")} of ${amount(trip.limit, trip.unit)})`;
  return h(
    "li",
    { class: "cause" },
    h("b", {}, cause.actor),
    trip ? " tripped: " : ": ",
    h("span", {}, cause.reason || "no reason was given", numbers),
    " ",
    h("span", { class: "num" }, moment(cause.at)),
  );
}

/** Rows of halts in force within `parent`. @param {Context} context @param {Element} parent */
export function haltRow(context, parent) {
  /** @type {KeyedList<Halt>} */
  const list = new KeyedList(
    parent,
    (halt) => `${scopeText(halt.scope)} ${halt.epoch} ${halt.causes.length}`,
    (halt) => {
      const pending = h("span", { class: "chip", "data-level": "warn", hidden: true });
      return h(
        "div",
        { class: "halt", "data-severity": halt.mode },
        h(
          "div",
          { class: "what" },
          h("span", { class: "state", "data-severity": halt.mode }, modeText(halt.mode)),
          ` ${scopeText(halt.scope)} `,
          pending,
        ),
        h("ul", {}, halt.causes.map(causeLine)),
        h(
          "div",
          { class: "actions" },
          may(context.client.me, "risk") &&
            h(
              "button",
              {
                type: "button",
                "aria-label": `Re-arm ${scopeText(halt.scope)}`,
                onclick: () => openRearm(context, halt.scope),
              },
              "Re-arm…",
            ),
        ),
      );
    },
    (element, halt) => {
      const waits = context.pending.find(
        (rearm) => rearm.epoch === halt.epoch && scopeText(rearm.scope) === scopeText(halt.scope),
      );
      const chip = /** @type {HTMLElement} */ (element.querySelector(".chip"));
      show(chip, waits !== undefined);
      if (waits) setText(chip, `${waits.asked_by} asks to re-arm`);
    },
  );
  return (/** @type {Iterable<Halt>} */ halts) => list.show(worstFirst(halts));
}

/** @param {Iterable<Halt>} halts */
function worstFirst(halts) {
  const weight = (/** @type {Halt} */ halt) => (halt.mode === "halted" ? 0 : 1);
  return [...halts].sort((a, b) => weight(a) - weight(b) || b.epoch - a.epoch);
}

export class HaltsView {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.id = "halts";
    this.title = "Halts";
    this.timer = 0;
    this.haltsHere = h("div");
    this.noHalts = h("p", { class: "empty" }, "");
    this.showHalts = haltRow(context, this.haltsHere);
    this.said = h("p", { class: "said", role: "alert" });
    const rearmsBody = h("tbody");
    this.noRearms = h("p", { class: "empty" }, "None.");
    /** @type {KeyedList<Rearm>} */
    this.rearms = new KeyedList(
      rearmsBody,
      (rearm) => `${rearm.id} ${rearm.status}`,
      (rearm) => this.rearmRow(rearm),
      (element, rearm) => this.age(element, rearm),
    );
    const killsBody = h("tbody");
    this.noKills = h("p", { class: "empty" }, "None since the start.");
    /** @type {KeyedList<Receipt>} */
    this.kills = new KeyedList(
      killsBody,
      (kill) => `${kill.id} ${JSON.stringify([kill.status, kill.missing])}`,
      (kill) => this.killRow(kill),
      () => {},
    );
    this.rearmTable = scrolling("Re-arms", ["State", "Scope", "Asked by", "Reason", "Second person", ""], rearmsBody);
    this.killTable = scrolling("Receipts", ["Receipt", "Scope", "By", "Reason", "Pressed", ""], killsBody);
    const panel = (/** @type {string} */ title, /** @type {HTMLElement[]} */ ...inside) =>
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, title)), ...inside);
    this.element = h(
      "div",
      { class: "stack" },
      this.said,
      panel("Halts in force", this.haltsHere, this.noHalts),
      panel("Re-arms", this.rearmTable, this.noRearms),
      panel("Kills and trips, newest first", this.killTable, this.noKills),
    );
  }

  badge() {
    const { store, pending } = this.context;
    if (store.halts.size > 0) return { text: String(store.halts.size), level: "danger" };
    return pending.length > 0 ? { text: String(pending.length), level: "warn" } : null;
  }

  enter() {
    void this.look();
    this.timer = window.setInterval(() => void this.look(), ASK_MS);
  }

  leave() {
    clearInterval(this.timer);
  }

  async look() {
    const { client } = this.context;
    try {
      const [rearms, kills] = await Promise.all([client.get("/v1/rearm"), client.get(`/v1/kills?count=${RECEIPTS}`)]);
      this.rearms.show(rearms.rearms);
      this.kills.show(kills.kills);
      show(this.rearmTable, rearms.rearms.length > 0);
      show(this.noRearms, rearms.rearms.length === 0);
      show(this.killTable, kills.kills.length > 0);
      show(this.noKills, kills.kills.length === 0);
      setText(this.said, "");
    } catch (error) {
      setText(this.said, problemText(error));
    }
  }

  /** @param {boolean} _changed */
  frame(_changed) {
    const { store, verdict } = this.context;
    this.showHalts(store.halts.values());
    show(this.noHalts, store.halts.size === 0);
    setText(
      this.noHalts,
      verdict.word === "live"
        ? "None: every scope is normal."
        : "None were in force when haltline was last heard. Whether that is still so is not known.",
    );
  }

  /** @param {Rearm} rearm */
  rearmRow(rearm) {
    const { client } = this.context;
    const waits = rearm.status === "pending";
    const mine = rearm.asked_by === client.me?.name;
    const second = waits
      ? h("span", { class: "expiry" }, "")
      : rearm.agreed_by
        ? h("span", {}, h("b", {}, rearm.agreed_by), rearm.agreed_reason ? ` “${rearm.agreed_reason}”` : "")
        : "–";
    const action =
      waits &&
      may(client.me, "risk") &&
      (mine
        ? h("span", { class: "hint" }, "You asked: somebody else has to agree.")
        : h(
            "button",
            { type: "button", class: "primary small", onclick: () => openApprove(this.context, rearm) },
            "Agree…",
          ));
    const level = { pending: "warn", done: "good", lowered: "warn" }[rearm.status] ?? "";
    return h(
      "tr",
      {},
      h("td", {}, h("span", { class: "chip", "data-level": level }, STATUS[rearm.status] ?? rearm.status)),
      h(
        "td",
        { class: "tight" },
        h("b", {}, scopeText(rearm.scope)),
        h("br"),
        h("span", { class: "muted num" }, `epoch ${rearm.epoch}`),
      ),
      h("td", {}, h("b", {}, rearm.asked_by), h("br"), h("span", { class: "muted num" }, moment(rearm.asked_at))),
      h("td", {}, rearm.reason),
      h("td", {}, second),
      h("td", {}, action),
    );
  }

  /** @param {HTMLElement} element @param {Rearm} rearm */
  age(element, rearm) {
    const expiry = element.querySelector(".expiry");
    if (expiry) setText(expiry, `waited for, ${plural(rearm.expires_in_seconds ?? 0, "second")} left`);
  }

  /** @param {Receipt} kill */
  killRow(kill) {
    const good = kill.status === "confirmed";
    return h(
      "tr",
      {},
      h("td", { class: "tight" }, h("span", { class: "chip", "data-level": good ? "good" : "danger" }, kill.status)),
      h(
        "td",
        { class: "tight" },
        h("b", {}, scopeText(kill.scope)),
        h("br"),
        h("span", { class: "muted" }, `to ${modeText(kill.asked)}`),
      ),
      h(
        "td",
        {},
        h("b", {}, kill.actor),
        h("br"),
        h("span", { class: "muted" }, kill.by === "trip" ? "a trip" : "a press"),
      ),
      h("td", {}, kill.reason || h("span", { class: "muted" }, "none given")),
      h("td", { class: "tight num" }, moment(kill.pressed_at)),
      h(
        "td",
        { class: "right" },
        h("button", { type: "button", class: "small", onclick: () => openReceipt(this.context, kill) }, "Receipt"),
      ),
    );
  }
}

/** @type {Record<string, string>} */
const STATUS = {
  pending: "waits",
  lowered: "done, not on disk yet",
  done: "done",
  void: "void: halted again since",
  expired: "expired",
};
