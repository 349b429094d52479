// Limits that are others than configured for a while, and scopes that are on probation after a re-arm.

import { may, Problem, problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, KeyedList, scrolling, setText, show } from "./dom.js";
import { amount, moment, ruleText, scopeText, seconds, span } from "./format.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").Override} Override */

const ASK_MS = 2_000;
/** What waits for somebody comes first, then what is in force. @type {Record<string, number>} */
const RANK = { pending: 0, active: 1 };

/** An override in one line. @param {Override} one */
export function overrideText(one) {
  const left = one.seconds_left == null ? "" : `, ${seconds(one.seconds_left)} left`;
  const window = one.window_ns ? ` per ${span(one.window_ns)}` : "";
  const numbers = `${amount(one.limit, one.unit ?? "")} instead of ${amount(one.configured, "")}`;
  return `${ruleText(one.rule)}${window} of ${scopeText(one.scope)}: ${numbers}${one.status === "active" ? left : ""}`;
}

export class OverridesView {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.id = "overrides";
    this.title = "Overrides";
    this.timer = 0;
    this.said = h("p", { class: "said", role: "alert" });
    const body = h("tbody");
    /** @type {KeyedList<Override>} */
    this.list = new KeyedList(
      body,
      (one) => `${one.id} ${one.status} ${one.removal?.by ?? ""}`,
      (one) => this.make(one),
      (element, one) => {
        const left = element.querySelector(".left");
        if (left)
          setText(left, one.seconds_left == null ? (one.ended ?? "").replaceAll("_", " ") : seconds(one.seconds_left));
      },
    );
    this.none = h("p", { class: "empty" }, "None: every limit is as configured.");
    const heads = ["State", "Scope", "Limit", "Configured, and now", "By", "Second person", "Left", ""];
    this.table = scrolling("Overrides", heads, body);
    this.probation = h("tbody");
    this.probationPanel = h(
      "section",
      { class: "panel", hidden: true },
      h("header", {}, h("h2", {}, "On probation: a fraction of each limit counts")),
      scrolling("Probation", ["Scope", "Of each limit", "Step", "Clean so far", "Since", ""], this.probation),
    );
    this.element = h(
      "div",
      { class: "stack" },
      this.said,
      h("section", { class: "panel" }, h("header", {}, h("h2", {}, "Overrides of limits")), this.table, this.none),
      this.probationPanel,
    );
  }

  badge() {
    const { store, pendingOverrides } = this.context;
    const pending = pendingOverrides.filter((one) => one.status === "pending").length;
    const n = (store.state?.overrides.length ?? 0) + (store.state?.probation.length ?? 0) + pending;
    return n > 0 ? { text: String(n), level: "warn" } : null;
  }

  enter() {
    void this.look();
    this.timer = window.setInterval(() => void this.look(), ASK_MS);
  }

  leave() {
    clearInterval(this.timer);
  }

  frame() {}

  async look() {
    const { client } = this.context;
    try {
      const [overrides, probation] = await Promise.all([client.get("/v1/overrides"), client.find("/v1/probation")]);
      /** @type {Override[]} */
      const all = overrides.overrides;
      this.list.show([...all].sort((a, b) => (RANK[a.status] ?? 2) - (RANK[b.status] ?? 2)));
      show(this.table, all.length > 0);
      show(this.none, all.length === 0);
      const on = probation?.probation ?? [];
      show(this.probationPanel, on.length > 0);
      fill(
        this.probation,
        ...on.map((/** @type {any} */ one) =>
          h(
            "tr",
            {},
            h("td", {}, h("b", {}, scopeText(one.scope))),
            h("td", { class: "num" }, `${one.fraction_percent} %`),
            h("td", { class: "num" }, `${one.step} of ${one.steps}`),
            h(
              "td",
              { class: "num" },
              `${seconds(one.clean_seconds)} of ${seconds(one.clean_seconds_needed)}`,
              one.clean_orders_needed > 0 && `, ${one.clean_orders} of ${one.clean_orders_needed} orders`,
            ),
            h("td", { class: "num" }, moment(one.since)),
            h("td", { class: "right" }, may(client.me, "risk") && this.promoteButton(one)),
          ),
        ),
      );
      setText(
        this.said,
        overrides.durable ? "" : "Overrides are not on disk: after a restart others would be in force.",
      );
    } catch (error) {
      setText(this.said, `${problemText(error)} What is shown is old.`);
    }
  }

  /** @param {import("./types.js").Probation} one */
  promoteButton(one) {
    const { client } = this.context;
    const { kind, name } = one.scope;
    const path = name ? `${kind}/${encodeURIComponent(name)}` : kind;
    const title = `End the probation of ${scopeText(one.scope)}`;
    const what = `From ${one.fraction_percent} % of its limits to all of them, at once.`;
    const send = (/** @type {string} */ reason) => client.post(`/v1/probation/${path}/promote`, { reason });
    const open = () => openReason(title, [h("p", {}, what)], send, () => void this.look());
    return h("button", { type: "button", class: "small", "aria-label": title, onclick: open }, "End it…");
  }

  /** @param {Override} one */
  make(one) {
    const { client, refreshPending } = this.context;
    const risk = may(client.me, "risk");
    const waits = one.status === "pending" || one.removal !== null;
    const asker = one.removal?.by ?? one.by;
    const act = (
      /** @type {string} */ text,
      /** @type {string} */ title,
      /** @type {(reason: string) => Promise<any>} */ send,
    ) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          onclick: () => openReason(title, asked(one), send, () => (void this.look(), void refreshPending())),
        },
        text,
      );
    const agree =
      risk &&
      waits &&
      (asker === client.me?.name
        ? h("span", { class: "hint" }, "You asked: somebody else has to agree.")
        : act("Agree…", "Second person: agree", (reason) =>
            client.post(`/v1/overrides/${one.id}/approve`, { reason }),
          ));
    const back =
      risk &&
      one.status === "active" &&
      one.removal === null &&
      act("Take back…", "Take an override back", (reason) =>
        client.ask("DELETE", `/v1/overrides/${one.id}`, { body: { reason } }),
      );
    const level = one.status === "active" ? "warn" : one.status === "pending" ? "warn" : "";
    const state = one.removal ? `${one.removal.by} takes it back` : one.status === "pending" ? "waits" : one.status;
    return h(
      "tr",
      {},
      h("td", {}, h("span", { class: "chip", "data-level": level }, state)),
      h("td", {}, h("b", {}, scopeText(one.scope))),
      h("td", {}, ruleText(one.rule), one.window_ns ? ` per ${span(one.window_ns)}` : ""),
      h(
        "td",
        { class: "num" },
        `${amount(one.configured, "")} → `,
        h("b", {}, amount(one.limit, one.unit ?? "")),
        one.raises ? " raised" : " lowered",
      ),
      h("td", {}, h("b", {}, one.by), ` “${one.reason}”`),
      h("td", {}, one.agreed_by ? h("span", {}, h("b", {}, one.agreed_by), ` “${one.agreed_reason ?? ""}”`) : "–"),
      h("td", { class: "num left" }),
      h("td", { class: "right" }, agree, " ", back),
    );
  }
}

/** What was asked for, by whom. @param {Override} one */
const asked = (one) => [
  h("p", {}, h("b", {}, overrideText(one))),
  h("p", {}, h("b", {}, one.by), ` asked: “${one.reason}”`),
];

/**
 * Asks for a reason, and sends it.
 * @param {string} title @param {HTMLElement[]} about @param {(reason: string) => Promise<any>} send @param {() => void} then
 */
function openReason(title, about, send, then) {
  const reason = h("input", { type: "text", id: "override-reason", maxLength: 400, autocomplete: "off" });
  const said = h("p", { class: "said", role: "alert" });
  const go = async () => {
    button.disabled = true;
    try {
      await send(reason.value.trim());
      close();
      then();
    } catch (error) {
      setText(said, problemText(error));
      button.disabled = false;
    }
  };
  const button = h("button", { type: "button", class: "primary", onclick: () => void go() }, title);
  const { close } = openDialog(
    { title },
    h(
      "div",
      { class: "content" },
      ...about,
      h("div", { class: "field" }, h("label", { for: "override-reason" }, "Reason"), reason),
      said,
    ),
    h("footer", {}, button),
  );
  reason.focus();
}

/** How long an override may be chosen to last. */
const SPANS = [
  ["15 minutes", 900],
  ["1 hour", 3_600],
  ["4 hours", 14_400],
  ["8 hours", 28_800],
];

/**
 * Asks for another number of one limit, for a while: what it would mean is shown before it can be asked for.
 * @param {Context} context @param {import("./types.js").LimitRow} row
 */
export function openOverride(context, row) {
  const { client } = context;
  const limit = h("input", {
    type: "text",
    id: "override-limit",
    inputMode: "decimal",
    autocomplete: "off",
    oninput: () => void look(),
  });
  const span_ = h(
    "select",
    { id: "override-span" },
    SPANS.map(([text, value]) => h("option", { value: String(value) }, text)),
  );
  const reason = h("input", {
    type: "text",
    id: "override-reason",
    maxLength: 400,
    autocomplete: "off",
    oninput: () => ready(),
  });
  const means = h("p", { role: "status" });
  const said = h("p", { class: "said", role: "alert" });
  const hint = h("span", { class: "hint" });
  const button = h(
    "button",
    { type: "button", class: "primary", disabled: true, onclick: () => void go() },
    "Ask for it",
  );
  /** The number whose meaning is shown, and the limits that it was shown for: if somebody changes them since, nothing is overwritten. */
  let looked = { limit: "", etag: "" };
  let looks = 0;
  const change = () => ({
    scope: row.scope,
    rule: row.rule,
    ...(row.window_ns && row.kind ? { window_ns: row.window_ns } : {}),
    limit: limit.value.trim(),
  });
  const ready = () => {
    const shown = looked.limit !== "" && looked.limit === limit.value.trim();
    const missing = [shown ? "" : "another number", reason.value.trim() ? "" : "a reason"].filter(Boolean);
    button.disabled = missing.length > 0;
    setText(hint, missing.length > 0 ? `Missing: ${missing.join(" and ")}.` : "");
  };
  const look = async () => {
    const wanted = limit.value.trim();
    const mine = (looks += 1);
    looked = { limit: "", etag: "" };
    ready();
    if (!wanted) {
      setText(means, "");
      setText(said, "");
      return;
    }
    try {
      const { etag } = await client.get("/v1/overrides");
      const [would] = (await client.post("/v1/limits/what-if", { changes: [change()] })).changes;
      if (mine !== looks) return;
      setText(said, "");
      if (!would) setText(means, "That is the limit now.");
      else {
        looked = { limit: wanted, etag };
        const use = would.would_be_percent === null ? "" : ` ${would.would_be_percent} % of it would be in use.`;
        const over = would.above ? " WHAT IS IN USE NOW IS ABOVE IT." : "";
        setText(means, `${would.raises ? "Raises" : "Lowers"} ${would.now} to ${would.would_be}.${use}${over}`);
      }
    } catch (error) {
      if (mine !== looks) return;
      setText(means, "");
      setText(said, problemText(error));
    }
    ready();
  };
  const go = async () => {
    button.disabled = true;
    try {
      const { etag } = looked;
      const body = { ...change(), for_seconds: Number(span_.value), reason: reason.value.trim(), etag };
      const made = await client.post("/v1/overrides", body);
      const waits = made.status === "pending";
      fill(
        content,
        h(
          "div",
          { class: "verdict", role: "status", "data-status": waits ? "pressing" : "confirmed" },
          waits ? "WAITS for a second person" : "IN FORCE",
          h(
            "small",
            {},
            waits
              ? "The limit is as it was until somebody else agrees."
              : "It ends by itself, and is shown until then.",
          ),
        ),
      );
      footer.remove();
      void context.refreshPending();
    } catch (error) {
      // What it means is another thing if the limits are others by now: it is shown anew, and can be asked for again.
      if (error instanceof Problem && error.status === 412) await look();
      setText(said, problemText(error));
      ready();
    }
  };
  const field = (/** @type {string} */ id, /** @type {string} */ text, /** @type {HTMLElement} */ input) =>
    h("div", { class: "field" }, h("label", { for: id }, text), input);
  const now = `${row.observed === null ? "" : `${amount(row.observed, "")} in use, `}limit ${amount(row.limit, row.unit)}`;
  const footer = h("footer", {}, hint, button);
  const content = h(
    "div",
    { class: "content" },
    h("p", {}, h("b", {}, `${ruleText(row.rule)} of ${scopeText(row.scope)}`), `: ${now}`),
    field("override-limit", "Limit for a while", limit),
    means,
    field("override-span", "For", span_),
    field("override-reason", "Reason", reason),
    said,
  );
  openDialog({ title: "Override a limit" }, content, footer);
  ready();
  limit.focus();
}
