// Gateways' sessions: who is connected, what they have been told, what they run.

import { may, Problem, problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, KeyedList, scrolling, setAttribute, setText, show } from "./dom.js";
import { count, plural } from "./format.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").SessionRow} SessionRow */

const ASK_MS = 2_000;

export class SessionsView {
  /** @param {Context} context */
  constructor(context) {
    this.context = context;
    this.id = "sessions";
    this.title = "Sessions";
    this.timer = 0;
    /** What `/v1/sessions` says besides, by name. @type {Map<string, any>} */
    this.more = new Map();
    this.has = true;
    /** @type {import("./types.js").Preflight | null} */
    this.page = null;
    this.said = h("p", { class: "said", role: "alert" });
    const body = h("tbody");
    /** @type {KeyedList<SessionRow>} */
    this.list = new KeyedList(
      body,
      (session) => session.name,
      () => this.make(),
      (element, session) => this.update(element, session),
    );
    this.total = h("span", { class: "muted num", role: "status" });
    this.mayOpen = h("span", { class: "chip" });
    this.checks = h("tbody");
    this.preflight = h(
      "section",
      { class: "panel", hidden: true },
      h("header", {}, h("h2", {}, "Preflight"), this.mayOpen),
      scrolling("Checks", ["Check", "Of", "Seen"], this.checks),
    );
    this.element = h(
      "div",
      { class: "stack" },
      this.said,
      h(
        "section",
        { class: "panel" },
        h("header", {}, h("h2", {}, "Sessions"), this.total),
        scrolling("Sessions", ["Connection", "Session", "Kind", "Mode told", "Last event", "Build"], body),
      ),
      this.preflight,
    );
  }

  enter() {
    this.timer = window.setInterval(() => void this.look(), ASK_MS);
    void this.look();
  }

  leave() {
    clearInterval(this.timer);
  }

  async look() {
    if (!this.has) return;
    try {
      const { client } = this.context;
      const [answer, preflight] = await Promise.all([client.find("/v1/sessions"), client.find("/v1/preflight")]);
      this.has = answer !== null;
      this.more = new Map((answer?.sessions ?? []).map((/** @type {any} */ session) => [session.name, session]));
      this.page = preflight;
      setText(this.said, "");
      this.frame(true);
    } catch (error) {
      setText(this.said, problemText(error));
    }
  }

  /** @param {boolean} changed */
  frame(changed) {
    if (!changed) return;
    this.showPreflight(this.page);
    const { store } = this.context;
    const sessions = [...store.sessions.values()];
    const rank = (/** @type {SessionRow} */ session) =>
      session.own ? 3 : session.connected ? (session.confirmed ? 2 : 0) : 1;
    sessions.sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
    this.list.show(sessions);
    const others = sessions.filter((session) => !session.own);
    const connected = others.filter((session) => session.connected).length;
    setText(this.total, `${count(connected)} of ${plural(others.length, "session")} connected`);
  }

  /** Whether this fleet may open, check by check. @param {import("./types.js").Preflight | null} preflight */
  showPreflight(preflight) {
    show(this.preflight, preflight !== null);
    if (!preflight) return;
    const vouched = this.context.verdict.word === "live";
    setAttribute(this.mayOpen, "data-level", !preflight.may_open ? "danger" : vouched ? "good" : "");
    const open = vouched ? "may open" : "could open when haltline was last heard";
    setText(this.mayOpen, preflight.may_open ? open : "MAY NOT OPEN");
    const levels = { pass: "good", note: "", fail: "danger" };
    const rank = { fail: 0, note: 1, pass: 2 };
    const outcome = (/** @type {string} */ word) => /** @type {keyof typeof rank} */ (word);
    const shown = JSON.stringify(preflight.checks);
    if (this.checks.getAttribute("data-shown") === shown) return;
    setAttribute(this.checks, "data-shown", shown);
    fill(
      this.checks,
      ...[...preflight.checks]
        .sort((a, b) => rank[outcome(a.outcome)] - rank[outcome(b.outcome)])
        .map((check) =>
          h(
            "tr",
            {},
            h(
              "td",
              { class: "tight" },
              h("span", { class: "chip", "data-level": levels[outcome(check.outcome)] }, check.outcome),
            ),
            h("td", { class: "tight" }, h("b", {}, check.name.replaceAll("_", " "))),
            h("td", {}, check.text),
          ),
        ),
    );
  }

  make() {
    return h(
      "tr",
      {},
      h("td", { class: "tight" }, h("span", { class: "state" })),
      h("td", { class: "tight" }, h("b")),
      h("td", { class: "tight muted" }),
      h("td", { class: "tight" }, h("span", { class: "chip" })),
      h("td", { class: "tight num" }),
      h("td", { class: "builds" }),
    );
  }

  /** @param {HTMLElement} element @param {SessionRow} session */
  update(element, session) {
    const vouched = this.context.verdict.word === "live";
    const [connection, name, kind, told, last, build] = element.children;
    const state = /** @type {Element} */ (connection.firstElementChild);
    const away = session.own ? "for drills only" : "not connected";
    const severity = !vouched ? "unknown" : session.connected ? "normal" : session.own ? "idle" : "warn";
    setAttribute(state, "data-severity", severity);
    setText(state, !vouched ? "unknown" : session.connected ? "connected" : away);
    setText(/** @type {Element} */ (name.firstElementChild), session.name);
    setText(kind, session.kind);
    const chip = /** @type {Element} */ (told.firstElementChild);
    const orders = session.kind !== "reference";
    const [level, text] = !orders
      ? ["", "–"]
      : session.confirmed
        ? ["good", "confirmed"]
        : session.told
          ? ["warn", "told, not confirmed"]
          : ["danger", "not told"];
    setAttribute(chip, "data-level", session.connected && vouched ? level : "");
    setText(chip, session.connected ? text : "–");
    setText(last, `#${count(session.last_seq)}`);
    const more = this.more.get(session.name);
    const shown = JSON.stringify(more ?? null);
    if (more && !session.own && build.getAttribute("data-shown") !== shown) {
      setAttribute(build, "data-shown", shown);
      fill(build, ...buildOf(this.context, more, () => void this.look()));
    }
  }
}

/** How what a session runs is judged, and how loud that is. @type {Record<string, string>} */
const VERDICTS = { approved: "good", quarantined: "danger", absent: "warn" };

/** What is known of what a session runs. @param {Context} context @param {any} more @param {() => void} then */
function buildOf(context, more, then) {
  const judged = more.verdict !== "off" && more.verdict !== "not_judged";
  const build = more.build ?? more.build_claimed;
  const how = more.build ? "measured" : more.build_claimed ? "claimed" : "";
  const flags = Object.entries(more.flags ?? {}).map(([name, value]) => `${name}=${value}`);
  return [
    judged && h("span", { class: "chip", "data-level": VERDICTS[more.verdict] ?? "" }, more.verdict),
    build && h("span", {}, " ", h("span", { class: "mono" }, build), " ", h("span", { class: "muted" }, how)),
    flags.length > 0 && h("div", { class: "muted mono" }, flags.join(" ")),
    (more.host || more.from) && h("div", { class: "muted" }, [more.host, more.from].filter(Boolean).join(", ")),
    ...(more.reasons ?? []).map((/** @type {string} */ reason) => h("div", {}, reason)),
    more.to_approve && changesOf(more.to_approve, `To approve of ${more.name}`),
    // Other reasons are the manifest's, and not one person's to set aside.
    more.to_approve &&
      may(context.client.me, "risk") &&
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `Approve the build of ${more.name}`,
          onclick: () => openApproveBuild(context, more, then),
        },
        "Approve build…",
      ),
  ];
}

/** What a person may approve, change by change. @param {import("./types.js").ToApprove} what @param {string} label */
const changesOf = (what, label) =>
  h(
    "ul",
    { class: "mono", "aria-label": label },
    what.changes.map((text) => h("li", {}, text)),
  );

/** @param {Context} context @param {any} session @param {() => void} then */
function openApproveBuild(context, session, then) {
  /** What is shown, and nothing else, is approved. @type {import("./types.js").ToApprove} */
  let looked = session.to_approve;
  const changes = h("div", {}, changesOf(looked, "To approve"));
  const reason = h("input", { type: "text", id: "build-reason", maxLength: 400, autocomplete: "off" });
  const said = h("p", { class: "said", role: "alert" });
  const send = async () => {
    button.disabled = true;
    try {
      await context.client.post(`/v1/sessions/${encodeURIComponent(session.name)}/approve`, {
        tag: looked.tag,
        reason: reason.value.trim(),
      });
      close();
      then();
    } catch (error) {
      if (error instanceof Problem && error.body.to_approve) {
        looked = error.body.to_approve;
        fill(changes, changesOf(looked, "To approve"));
        setText(said, "It runs something else by now, which is shown above: nothing was approved. Look again.");
      } else {
        setText(said, problemText(error));
      }
      button.disabled = false;
    }
  };
  const button = h("button", { type: "button", class: "primary", onclick: () => void send() }, "Approve");
  const { close } = openDialog(
    { title: `Approve the build of ${session.name}` },
    h(
      "div",
      { class: "content" },
      h("p", {}, "Approved is what is listed here:"),
      changes,
      h("p", { class: "muted" }, session.reasons.join("; ")),
      h("div", { class: "field" }, h("label", { for: "build-reason" }, "Reason"), reason),
      said,
    ),
    h("footer", {}, button),
  );
  reason.focus();
}
