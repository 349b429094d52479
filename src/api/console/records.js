// What was written down: alerts, incidents, the audit. Shown only where this haltline has them and the login may see them.

import { may, problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, scrolling, setText, show } from "./dom.js";
import { amount, clockMs, count, modeText, moment, plural, ruleText, scopeText } from "./format.js";

/** @typedef {import("./app.js").Context} Context */

const ASK_MS = 2_000;

/** A view that asks one endpoint every now and then while it is seen. */
export class Asking {
  /** @param {Context} context @param {string} id @param {string} title @param {string} path @param {string[]} heads */
  constructor(context, id, title, path, heads) {
    this.context = context;
    this.id = id;
    this.title = title;
    this.path = path;
    this.timer = 0;
    this.shown = "";
    this.said = h("p", { class: "said", role: "alert" });
    this.body = h("tbody");
    this.none = h("p", { class: "empty" }, "None.");
    this.header = h("header", {}, h("h2", {}, title));
    this.table = scrolling(title, heads, this.body);
    this.element = h(
      "div",
      { class: "stack" },
      this.said,
      h("section", { class: "panel" }, this.header, this.table, this.none),
    );
  }

  enter() {
    void this.look();
    this.timer = window.setInterval(() => void this.look(), ASK_MS);
  }

  leave() {
    clearInterval(this.timer);
    this.timer = 0;
  }

  frame() {}

  async look() {
    const path = this.path;
    try {
      const answer = await this.context.client.get(path);
      // Something else has been asked for meanwhile.
      if (path !== this.path) return;
      setText(this.said, "");
      const now = JSON.stringify(answer);
      if (now === this.shown) return;
      this.shown = now;
      const rows = this.rows(answer);
      fill(this.body, ...rows);
      show(this.table, rows.length > 0);
      show(this.none, rows.length === 0);
    } catch (error) {
      setText(this.said, `${problemText(error)} What is shown is old.`);
    }
  }

  /** @param {any} _answer @returns {HTMLElement[]} */
  rows(_answer) {
    return [];
  }
}

const cell = (/** @type {import("./dom.js").Child[]} */ ...children) => h("td", {}, ...children);
const tight = (/** @type {import("./dom.js").Child[]} */ ...children) => h("td", { class: "tight" }, ...children);

/** An alert that waits for somebody's answer. What is told for information waits for none. @param {import("./types.js").Alert} alert */
export const isUnanswered = (alert) =>
  alert.severity !== "info" && (alert.state === "firing" || alert.state === "escalated");

/** What an alert's state is called. @param {import("./types.js").Alert} alert */
export const alertState = (alert) => (alert.severity === "info" && alert.state === "firing" ? "noted" : alert.state);

/** How loud an alert's chip is. @param {import("./types.js").Alert} alert */
export const alertLevel = (alert) =>
  alert.severity === "critical" ? "danger" : alert.severity === "warning" ? "warn" : "";

export class AlertsView extends Asking {
  /** @param {Context} context */
  constructor(context) {
    super(context, "alerts", "Alerts", "/v1/alerts?count=200", ["State", "Alert", "Scope", "Text", "Last", ""]);
  }

  badge() {
    const { unanswered } = this.context;
    if (unanswered.length === 0) return null;
    const critical = unanswered.some((alert) => alert.severity === "critical");
    return { text: count(unanswered.length), level: critical ? "danger" : "warn" };
  }

  /** @param {any} answer */
  rows(answer) {
    const alerts = answer.alerts ?? [];
    // What waits for somebody comes first, the worst of it on top; within it the order stays: newest first.
    const rank = (/** @type {any} */ alert) =>
      (isUnanswered(alert) ? 10 : 0) + ["info", "warning", "critical"].indexOf(alert.severity);
    return [...alerts].sort((a, b) => rank(b) - rank(a)).map((/** @type {any} */ alert) => this.row(alert));
  }

  /** @param {any} alert */
  row(alert) {
    const level = alertLevel(alert);
    const unanswered = isUnanswered(alert);
    const acknowledge =
      unanswered &&
      may(this.context.client.me, "operator") &&
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `Acknowledge ${alert.name}`,
          onclick: () =>
            openAcknowledge(this.context, alert, () => (void this.look(), void this.context.refreshPending())),
        },
        "Acknowledge…",
      );
    const by = alert.acknowledged;
    return h(
      "tr",
      {},
      tight(h("span", { class: "chip", "data-level": unanswered ? level || "warn" : "" }, alertState(alert))),
      cell(
        h("b", {}, String(alert.name).replaceAll("_", " ")),
        " ",
        h("span", { class: "chip", "data-level": level }, alert.severity),
        alert.count > 1 && h("span", { class: "chip" }, `${count(alert.count)} times`),
        alert.owner && h("div", { class: "muted" }, `owner: ${alert.owner}`),
      ),
      tight(alert.scope ? scopeText(alert.scope) : ""),
      cell(
        alert.text,
        by && h("div", { class: "muted" }, `${by.by}: “${by.reason}” `, h("span", { class: "num" }, moment(by.at))),
        alert.runbook && h("div", { class: "muted mono" }, alert.runbook),
      ),
      tight(h("span", { class: "num" }, moment(alert.last_at ?? alert.at))),
      h("td", { class: "right" }, acknowledge),
    );
  }
}

/** @param {Context} context @param {any} alert @param {() => void} then */
function openAcknowledge(context, alert, then) {
  const reason = h("input", { type: "text", id: "ack-reason", maxLength: 400, autocomplete: "off" });
  const said = h("p", { class: "said", role: "alert" });
  const button = h("button", { type: "button", class: "primary", onclick: () => void send() }, "Acknowledge");
  const send = async () => {
    button.disabled = true;
    try {
      await context.client.post(`/v1/alerts/${encodeURIComponent(alert.id)}/ack`, { reason: reason.value.trim() });
      close();
      then();
    } catch (error) {
      setText(said, problemText(error));
      button.disabled = false;
    }
  };
  const { close } = openDialog(
    { title: "Acknowledge an alert" },
    h(
      "div",
      { class: "content" },
      h("p", {}, h("b", {}, String(alert.name ?? alert.kind)), ` ${alert.text}`),
      h("div", { class: "field" }, h("label", { for: "ack-reason" }, "What you do about it"), reason),
      said,
    ),
    h("footer", {}, button),
  );
  reason.focus();
}

/** What caused an incident: a limit, or a person. @param {any} cause */
function causeOf(cause) {
  if (cause.rule) {
    const numbers = `${amount(String(cause.observed), "")} of ${amount(String(cause.limit), cause.unit)}`;
    const why = cause.why === "breach" ? "" : ` (${ruleText(cause.why)})`;
    const event = cause.seq > 0 ? `, event ${count(cause.seq)} of session ${cause.session}` : "";
    return [h("b", {}, ruleText(cause.rule)), `${why}: ${numbers} at ${scopeOf(cause.limit_at)}${event}`];
  }
  const orders = cause.working_orders === null ? "orders not known" : plural(cause.working_orders, "working order");
  return [
    h("b", {}, cause.actor),
    `: ${cause.reason || "no reason was given"} `,
    h("span", { class: "muted" }, `to ${modeText(cause.mode)}, ${orders}, receipt ${cause.receipt}`),
    !cause.confirmed && " ",
    !cause.confirmed && h("span", { class: "chip", "data-level": "danger" }, "UNCONFIRMED"),
  ];
}

export class IncidentsView extends Asking {
  /** @param {Context} context */
  constructor(context) {
    super(context, "incidents", "Incidents", "/v1/incidents", ["When", "What", "Scope", "Cause", ""]);
  }

  /** @param {any} answer */
  rows(answer) {
    return answer.incidents.map((/** @type {any} */ incident) =>
      h(
        "tr",
        {},
        tight(h("span", { class: "num" }, moment(incident.at))),
        tight(h("b", {}, incident.what)),
        tight(scopeOf(incident.scope)),
        cell(...causeOf(incident.cause)),
        h(
          "td",
          { class: "right" },
          h("button", { type: "button", class: "small", onclick: () => void this.open(incident.id) }, "Report"),
        ),
      ),
    );
  }

  /** @param {string} id */
  async open(id) {
    try {
      const report = await this.context.client.get(`/v1/incidents/${encodeURIComponent(id)}`);
      const timeline = (report.timeline ?? []).map((/** @type {any} */ row) =>
        h("tr", {}, tight(h("span", { class: "num" }, clockMs(row.at))), cell(row.what)),
      );
      openDialog(
        { title: `${report.what}: ${scopeOf(report.scope)}` },
        h(
          "div",
          { class: "content" },
          h("p", {}, causeOf(report.cause)),
          h("h3", {}, "What happened when"),
          scrolling("Timeline", [], h("tbody", {}, timeline)),
          h("h3", {}, "Everything"),
          h("pre", { class: "mono", tabIndex: 0 }, JSON.stringify(report, null, 2)),
        ),
      );
    } catch (error) {
      setText(this.said, problemText(error));
    }
  }
}

/** A scope as an object or as text, whichever the record has. @param {any} scope */
const scopeOf = (scope) => (scope && typeof scope === "object" ? scopeText(scope) : String(scope ?? ""));

/** Entries of the audit that are asked for at first, and how many more each time, up to the most that an answer has. */
const ENTRIES = 100;
const ENTRIES_MAX = 1_000;

export class AuditView extends Asking {
  /** @param {Context} context */
  constructor(context) {
    super(context, "audit", "Audit", "/v1/audit", ["When", "Who", "Did", "To", "Reason", "Outcome"]);
    this.count = ENTRIES;
    const find = (/** @type {string} */ label, /** @type {string} */ placeholder) =>
      h("input", {
        type: "search",
        class: "search",
        "aria-label": label,
        placeholder,
        spellcheck: false,
        oninput: () => this.ask(),
      });
    this.who = find("Who", "Who, in full");
    this.did = find("Did", "Did, in full");
    this.refused = h("input", { type: "checkbox", id: "audit-refused", onchange: () => this.ask() });
    this.header.append(
      h("label", { class: "check", for: "audit-refused" }, this.refused, "Only what was refused"),
      this.who,
      this.did,
    );
    this.more = h("button", { type: "button", class: "small", hidden: true, onclick: () => this.askMore() }, "Older…");
    this.element.append(h("p", {}, this.more));
    this.ask();
  }

  /** Asks for what is wanted now. */
  ask() {
    const query = new URLSearchParams({ count: String(this.count) });
    if (this.who.value.trim()) query.set("actor", this.who.value.trim());
    if (this.did.value.trim()) query.set("action", this.did.value.trim());
    if (this.refused.checked) query.set("refused", "true");
    this.path = `/v1/audit?${query}`;
    if (this.timer) void this.look();
  }

  askMore() {
    this.count = Math.min(this.count + ENTRIES, ENTRIES_MAX);
    this.ask();
  }

  /** @param {any} answer */
  rows(answer) {
    const all = answer.next === null;
    show(this.more, !all && this.count < ENTRIES_MAX);
    setText(this.none, answer.note ?? "None.");
    return answer.entries.map((/** @type {any} */ entry) =>
      h(
        "tr",
        {},
        tight(h("span", { class: "num" }, moment(entry.at))),
        cell(h("b", {}, entry.actor), h("div", { class: "muted" }, entry.from)),
        tight(entry.action),
        tight(scopeOf(entry.scope)),
        cell(entry.reason, entry.detail && h("div", { class: "muted" }, entry.detail)),
        cell(
          h("span", { class: "chip", "data-level": entry.outcome.startsWith("refused") ? "warn" : "" }, entry.outcome),
        ),
      ),
    );
  }
}
