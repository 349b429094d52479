// The receipt of a kill as it fills in: what is proved, by whom, and loudly what is not.

import { problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, setAttribute, setText } from "./dom.js";
import { clockMs, count, modeText, plural, scopeText, seconds, span } from "./format.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").Receipt} Receipt */

/** A receipt that is not complete is asked for this often, */
const SOON_MS = 150;
/** and this often after a while. */
const LATER_MS = 1_000;
const SOON_FOR_MS = 10_000;

/** What is left to do by other ways, if haltline does not answer. */
const OTHER_WAYS =
  "Other ways, on its host: `haltline kill`, SIGUSR1 to the process, the kill file. Or call the desk and the venue.";

/** @param {Context} context @param {Receipt} receipt */
export function openReceipt(context, receipt) {
  const panel = new ReceiptPanel(context);
  openDialog(
    { title: `Receipt ${receipt.id}: ${scopeText(receipt.scope)}`, class: "kill-dialog", onClose: () => panel.end() },
    panel.element,
  );
  panel.follow(receipt);
}

export class ReceiptPanel {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.over = false;
    this.since = performance.now();
    this.verdictText = h("span", {});
    this.verdictDetail = h("small", {});
    this.verdict = h(
      "div",
      { class: "verdict", role: "status", "aria-live": "assertive", "data-status": "pressing" },
      this.verdictText,
      this.verdictDetail,
    );
    this.steps = h("ol", { class: "steps" });
    this.facts = h("dl", { class: "facts" });
    this.element = h("div", {}, this.verdict, h("div", { class: "content" }, this.steps, this.facts));
  }

  end() {
    this.over = true;
  }

  /** @param {number} attempt */
  pressing(attempt) {
    if (attempt === 1) this.say("pressing", "Pressed. Waiting for haltline …", "");
  }

  /** No answer to the press. @param {string} why @param {number} attempt */
  unknown(why, attempt) {
    const text = `${why} Sent ${plural(attempt, "time")}; it is sent again until there is an answer. ${OTHER_WAYS}`;
    this.say("unknown", "NOT KNOWN whether it is halted", text);
  }

  /** @param {string} why */
  refused(why) {
    this.say("unknown", "REFUSED: nothing was halted", why);
  }

  /** @param {string} status @param {string} text @param {string} detail */
  say(status, text, detail) {
    setAttribute(this.verdict, "data-status", status);
    setText(this.verdictText, text);
    setText(this.verdictDetail, detail);
  }

  /** Shows a receipt, and what becomes of it until it is complete. @param {Receipt} receipt */
  async follow(receipt) {
    let shown = receipt;
    this.show(shown);
    while (!this.over) {
      const soon = performance.now() - this.since < SOON_FOR_MS;
      await new Promise((resolve) => setTimeout(resolve, soon ? SOON_MS : LATER_MS));
      if (this.over || (shown.status === "confirmed" && isOver(shown))) return;
      try {
        shown = await this.context.client.get(`/v1/kills/${shown.id}`, { timeoutMs: 3_000 });
        this.show(shown);
      } catch (error) {
        const age = seconds((performance.now() - this.since) / 1_000);
        setText(
          this.verdictDetail,
          `What became of it since is not known (${problemText(error)}), ${age} after the press. It is asked for again.`,
        );
      }
    }
  }

  /** @param {Receipt} receipt */
  show(receipt) {
    const mode = modeText(receipt.mode).toUpperCase();
    const name = scopeText(receipt.scope);
    if (receipt.status === "confirmed") {
      const left = receipt.flat?.residual ?? receipt.working_orders;
      // Reduce-only lets orders work.
      const open = receipt.mode === "halted" && left !== 0;
      const flat = !open ? "" : left === null ? ", ORDERS NOT KNOWN" : ", NOT FLAT";
      this.say(open ? "open" : "confirmed", `CONFIRMED: ${name} is ${mode}${flat}`, flatText(receipt));
    } else {
      this.say("unconfirmed", `UNCONFIRMED: ${name} is ${mode}, but not proved everywhere`, missingText(receipt));
    }
    fill(this.steps, raised(receipt), ...gates(receipt), sessions(receipt), latch(receipt), cancels(receipt));
    const fact = (/** @type {string} */ what, /** @type {string} */ is) => [h("dt", {}, what), h("dd", {}, is)];
    fill(
      this.facts,
      ...fact("By", `${receipt.actor} (${receipt.by === "trip" ? "a trip" : "a press"})`),
      ...fact("Reason", receipt.reason || "none given"),
      ...fact("Pressed", `${clockMs(receipt.pressed_at)} UTC`),
      ...fact("Receipt", `${receipt.id}, epoch ${receipt.epoch}`),
    );
  }
}

/** @param {Receipt} receipt */
function missingText(receipt) {
  const { missing } = receipt;
  const parts = [];
  if (missing.gates > 0) parts.push(plural(missing.gates, "gate may still send", "gates may still send"));
  if (missing.sessions > 0) {
    const names = missing.session_names.join(", ");
    parts.push(`${plural(missing.sessions, "session has", "sessions have")} not confirmed${names ? `: ${names}` : ""}`);
  }
  if (missing.latch) parts.push("it is not on disk: a restart could lose it");
  return `${parts.join("; ")}.`;
}

/**
 * @param {"yes" | "no" | "wait"} done @param {string} title @param {string} when @param {...(import("./dom.js").Child)} detail
 */
const step = (done, title, when, ...detail) =>
  h(
    "li",
    { class: "step", "data-done": done },
    h("span", { class: "title" }, title),
    h("span", { class: "num muted" }, when),
    detail.length > 0 && h("div", { class: "detail" }, ...detail),
  );

/** @param {number | null | undefined} ns */
const after = (ns) => (ns === null || ns === undefined ? "" : `+${span(ns)}`);

/** @param {Receipt} receipt */
const raised = (receipt) => step("yes", "Page raised: gates deny from here on", after(receipt.raised_ns));

/** @param {Receipt} receipt */
function gates(receipt) {
  if (receipt.gates.length === 0) return [];
  const confirmed = receipt.gates.filter((gate) => gate.confirmed_ns !== null);
  const all = confirmed.length === receipt.gates.length;
  const last = Math.max(0, ...confirmed.map((gate) => gate.confirmed_ns ?? 0));
  const words = (/** @type {import("./types.js").GateRow} */ gate) =>
    ({
      confirmed: "quiet",
      died_inside: `died with ${gate.died_inside} inside`,
      unreached: "NOT REACHED",
      inside: `${gate.still_inside} STILL INSIDE`,
    })[gate.status] ?? gate.status;
  const chips = receipt.gates.map((gate) => {
    const level = gate.confirmed_ns === null ? "danger" : gate.status === "confirmed" ? "good" : "warn";
    return h(
      "li",
      {},
      h("span", { class: "chip", "data-level": level }, `${gate.session}: ${words(gate)} ${after(gate.confirmed_ns)}`),
    );
  });
  return [
    step(
      all ? "yes" : "no",
      `Gates quiet: ${confirmed.length} of ${receipt.gates.length}, as haltline saw it`,
      all ? after(last) : "",
      h("ul", {}, chips),
    ),
  ];
}

/** @param {Receipt} receipt */
function sessions(receipt) {
  const words = {
    gate: "by its gate",
    confirmed: "confirmed",
    told: "told, NOT CONFIRMED",
    unconfirmed: "NOT TOLD",
    not_connected: "not connected",
  };
  const connected = receipt.sessions.filter((session) => session.status !== "not_connected");
  const good = connected.filter((session) => session.status === "gate" || session.status === "confirmed");
  const last = Math.max(0, ...good.map((session) => session.confirmed_ns ?? 0));
  const all = good.length === connected.length;
  const level = (/** @type {string} */ status) =>
    status === "gate" || status === "confirmed" ? "good" : status === "not_connected" ? "" : "danger";
  // What is not confirmed comes first: of many, only some can be listed.
  const rank = (/** @type {string} */ status) => (level(status) === "danger" ? 0 : level(status) === "good" ? 1 : 2);
  const sorted = [...receipt.sessions].sort((a, b) => rank(a.status) - rank(b.status));
  const chips = sorted.slice(0, 24).map((session) => {
    const word = words[/** @type {keyof typeof words} */ (session.status)] ?? session.status;
    return h(
      "li",
      {},
      h(
        "span",
        { class: "chip", "data-level": level(session.status) },
        `${session.name}: ${word} ${after(session.confirmed_ns)}`,
      ),
    );
  });
  const more = sorted.length > 24 ? h("li", {}, `and ${sorted.length - 24} more`) : null;
  const title =
    receipt.sessions.length === 0
      ? "No sessions in its scope"
      : `Sessions confirmed: ${good.length} of ${connected.length} connected`;
  return step(all ? "yes" : "no", title, all && last > 0 ? after(last) : "", h("ul", {}, chips, more));
}

/** @param {Receipt} receipt */
function latch(receipt) {
  if (receipt.latch.durable) return step("yes", "On disk: survives a restart", after(receipt.latch.durable_ns));
  const failed = receipt.latch.status === "failed";
  return step("no", failed ? "NOT on disk" : "Not on disk yet", "", receipt.latch.error ?? "It is being written.");
}

/** Orders that are named, of those that are left. */
const NAMED = 12;
/** What of a cancel's states a person has to deal with. */
const STUCK = { refused: "refused by the venue", unanswered: "unanswered", unknown: "unknown: session gone" };

/** How far the cancels of a halt are. @param {Receipt} receipt */
function cancels(receipt) {
  const flat = receipt.flat;
  const before =
    receipt.working_orders === null ? "" : `${plural(receipt.working_orders, "working order")} when it was pressed`;
  if (!flat || flat.residual === undefined) {
    if (flat?.status === "not_begun")
      return step("wait", before || "Working orders", "", "The engine has not begun to cancel.");
    const reduces = receipt.asked === "reduce_only";
    const why = reduces ? "Reduce-only lets them work." : "haltline does not cancel them: cancel them at the venue.";
    return step(reduces || receipt.working_orders === 0 ? "yes" : "no", before || "Working orders: not known", "", why);
  }
  const { residual, orders_at_halt: all = 0, ended, by_state: states = {} } = flat;
  const over = Math.max(0, all - residual);
  const stuck = Object.entries(STUCK).filter(([state]) => (states[state] ?? 0) > 0);
  const bar = h(
    "div",
    { class: "progress", "aria-hidden": "true" },
    h("i", { class: "done" }),
    h("i", { class: "bad" }),
  );
  const [done, bad] = /** @type {NodeListOf<HTMLElement>} */ (bar.querySelectorAll("i"));
  const share = (/** @type {number} */ n) => `${all > 0 ? (100 * n) / all : 0}%`;
  done.style.width = share(over);
  bad.style.width = share(stuck.reduce((sum, [state]) => sum + states[state], 0));
  const facts = [
    `${count(ended?.canceled ?? 0)} canceled`,
    `${count(ended?.filled ?? 0)} filled meanwhile`,
    (ended?.otherwise ?? 0) > 0 && `${count(ended?.otherwise ?? 0)} ended otherwise`,
    `${count((states.instructed ?? 0) + (states.untold ?? 0))} told`,
    `${count(states.requested ?? 0)} asked at the venue`,
  ].filter(Boolean);
  const chips = stuck.map(([state, words]) =>
    h("li", {}, h("span", { class: "chip", "data-level": "danger" }, `${count(states[state])} ${words}`)),
  );
  const remainder = flat.remainder ?? [];
  const named = remainder
    .slice(0, NAMED)
    .map((order) => h("li", {}, h("span", { class: "chip mono" }, `${order.session} ${order.id}: ${order.state}`)));
  if (residual > NAMED && remainder.length > 0) named.push(h("li", {}, `and ${count(residual - NAMED)} more`));
  const title =
    {
      flat: `FLAT: none of ${plural(all, "order")} works any more`,
      canceling: `Canceling: ${count(residual)} of ${plural(all, "order")} left`,
      remainder: `${plural(residual, "ORDER", "ORDERS")} LEFT that will not end by ${residual === 1 ? "itself" : "themselves"}`,
      re_armed: `Re-armed with ${plural(residual, "order")} left: they are left alone`,
    }[flat.status] ?? flat.status;
  const how = { flat: "yes", canceling: "wait", remainder: "no", re_armed: "no" }[flat.status] ?? "no";
  return step(
    /** @type {"yes" | "no" | "wait"} */ (how),
    title,
    after(flat.flat_ns),
    bar,
    h("span", {}, facts.join(", ")),
    (chips.length > 0 || named.length > 0) && h("ul", {}, chips, named),
  );
}

/** Whether nothing more is to come of its orders. @param {Receipt} receipt */
const isOver = (receipt) =>
  receipt.flat?.status !== "canceling" && receipt.flat?.status !== "not_begun" && receipt.flat?.status !== "remainder";

/** @param {Receipt} receipt */
function flatText(receipt) {
  const flat = receipt.flat;
  const proved = "Gates, connected sessions and disk have confirmed it.";
  if (flat?.status === "flat") return `${proved} Flat: no order works any more. Positions stay as they are.`;
  if (flat?.residual !== undefined) return `${proved} NOT FLAT YET: ${plural(flat.residual, "order")} may still fill.`;
  return receipt.working_orders
    ? `${proved} ${plural(receipt.working_orders, "order")} worked when it was pressed and may still fill.`
    : proved;
}
