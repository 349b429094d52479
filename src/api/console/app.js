// The console: logs in, follows the stream, shows one view at a time, and keeps what matters on top of all of them.

import { Client, may, Problem } from "./client.js";
import { byId, fill, h, KeyedList, setAttribute, setText, show } from "./dom.js";
import { clockMs, count, modeText, plural, scopeText, seconds } from "./format.js";
import { Freshness } from "./fresh.js";
import { HaltsView } from "./halts.js";
import { openKill } from "./kill.js";
import { LimitsView } from "./limits.js";
import { OverridesView, overrideText } from "./overrides.js";
import { DrillsView } from "./drills.js";
import { login } from "./login.js";
import { AlertsView, AuditView, IncidentsView, isUnanswered } from "./records.js";
import { Overview } from "./scopes.js";
import { SessionsView } from "./sessions.js";
import { follow } from "./source.js";
import { Store } from "./store.js";

/**
 * What every view works with.
 * @typedef {{
 *   client: Client, store: Store, fresh: Freshness,
 *   verdict: import("./fresh.js").Verdict,
 *   pending: import("./types.js").Rearm[],
 *   refreshPending: () => Promise<void>,
 *   pendingOverrides: import("./types.js").Override[],
 *   unanswered: import("./types.js").Alert[],
 *   found: Set<string>,
 * }} Context
 *
 * @typedef {{
 *   id: string, title: string, element: HTMLElement,
 *   enter?: () => void, leave?: () => void,
 *   frame: (changed: boolean) => void,
 *   badge?: () => { text: string, level: string } | null,
 * }} View
 */

/** Ages and clocks are shown anew this often, news or not. */
const CLOCK_MS = 200;
/** How often what the stream does not carry is asked for. */
const ASK_MS = 2_000;

const client = new Client();
/** @type {Context} */
const context = {
  client,
  store: new Store(),
  fresh: new Freshness(),
  verdict: new Freshness().verdict(0),
  pending: [],
  pendingOverrides: [],
  unanswered: [],
  refreshPending,
  found: new Set(),
};

/** @type {View[]} */
let views = [];
/** @type {View | null} */
let current = null;
/** @type {(() => void) | null} */
let unfollow = null;
let asked = false;
let shownVersion = -1;

/** Asks for one frame; more askers before it get the same one. */
function ask() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(frame);
}

function frame() {
  asked = false;
  const { store, fresh } = context;
  const now = performance.now();
  const before = context.verdict.word;
  context.verdict = fresh.verdict(now);
  const changed = store.version !== shownVersion || context.verdict.word !== before;
  shownVersion = store.version;
  setAttribute(byId("app"), "data-fresh", context.verdict.word);
  const silent = context.verdict.word === "stale" || context.verdict.word === "disconnected";
  if (silent) store.history.gap(store.atMs + (context.verdict.ageMs ?? 0));
  showTop();
  showBanners();
  showTabs();
  current?.frame(changed);
}

function showTop() {
  const { store, verdict } = context;
  const vouched = verdict.word === "live";
  const mode = store.firmMode();
  const firm = byId("firm");
  // A halt that is known stays shown: it is the safe thing to believe. Anything better needs somebody to vouch for it.
  const known = mode === "halted" || mode === "reduce_only" || (vouched && mode === "normal");
  setAttribute(firm, "data-severity", known ? mode : "unknown");
  // That the firm itself is normal is no all-clear while something in it is not.
  const { halted, reduce_only, breach } = store.counts;
  setAttribute(firm, "data-clear", String(halted + reduce_only + breach === 0));
  const lastKnown = known && !vouched ? ", last known" : "";
  setText(firm, known ? `Firm ${modeText(mode)}${lastKnown}` : "Firm unknown");
  setText(byId("fresh-word"), verdict.text);
  setText(byId("fresh-for"), verdict.for);
  setText(byId("updated-at"), store.at ? clockMs(store.at) : "–");
  setText(byId("updated-age"), verdict.ageMs === null ? "" : `${seconds(verdict.ageMs / 1_000)} ago`);
  counts.show(
    /** @type {const} */ (["halted", "reduce_only", "breach", "warn"])
      .map((severity) => ({ severity, n: store.counts[severity] }))
      .filter(({ n }) => n > 0),
  );
}

/** @type {Record<string, string>} */
const SEVERITY_WORDS = { halted: "halted", reduce_only: "reduce-only", breach: "over limit", warn: "warning" };

/** @type {KeyedList<{ severity: string, n: number }>} */
const counts = new KeyedList(
  byId("counts"),
  ({ severity }) => severity,
  ({ severity }) => {
    const state = h("span", { class: "state", "data-severity": severity });
    return h("li", {}, h("button", { type: "button", class: "quiet", onclick: () => goTo("overview") }, state));
  },
  (element, { severity, n }) =>
    setText(/** @type {Element} */ (element.querySelector(".state")), `${count(n)} ${SEVERITY_WORDS[severity]}`),
);

/**
 * What has to be seen whatever one looks at.
 * @typedef {{ key: string, level: string, title: string, detail: string, action?: { text: string, run: () => void } }} Banner
 * @returns {Banner[]}
 */
function banners() {
  const { store, verdict, pending } = context;
  /** @type {Banner[]} */
  const list = [];
  if (verdict.word !== "live" && verdict.word !== "connecting") {
    const title = {
      stale: "STALE: nothing has come from haltline.",
      late: "LATE: what is shown is old.",
      engine: "THE ENGINE STANDS STILL: nothing is judged.",
      disconnected: "DISCONNECTED: what is shown is old.",
    }[verdict.word];
    const why =
      verdict.word === "disconnected"
        ? `${verdict.why} Nothing is green until it is back. The kill can be pressed.`
        : verdict.why;
    list.push({ key: verdict.word, level: "danger", title, detail: why });
  }
  const state = store.state;
  if (state) {
    if (!state.latch.durable) {
      const detail = state.latch.error ?? "It is being written.";
      list.push({
        key: "latch",
        level: "danger",
        title: "Halts are not on disk.",
        detail: `A restart now could lose them. ${detail}`,
      });
    }
    if (state.journal.state !== "ok" && state.journal.state !== "off") {
      const flow = state.journal.denies_new_flow ? "New orders are denied until it works again." : "";
      list.push({
        key: "journal",
        level: "danger",
        title: `Journal ${state.journal.state}.`,
        detail: `${state.journal.error ?? ""} ${flow}`,
      });
    }
    if (state.orphans.length > 0) {
      const names = state.orphans
        .slice(0, 5)
        .map((orphan) => scopeText(orphan.scope))
        .join(", ");
      list.push({
        key: "orphans",
        level: "warn",
        title: "Halts of scopes that the configuration no longer has:",
        detail: names,
      });
    }
    if (state.scopes_left_off > 0) {
      list.push({
        key: "left-off",
        level: "warn",
        title: `${plural(state.scopes_left_off, "scope")} not listed.`,
        detail: "Halts of them are.",
      });
    }
  }
  const critical = context.unanswered.filter((alert) => alert.severity === "critical");
  if (critical.length > 0) {
    const more = critical.length > 1 ? `The newest: ${critical[0].text}` : critical[0].text;
    list.push({
      key: "alerts",
      level: "warn",
      title: `${plural(critical.length, "critical alert")} unanswered.`,
      detail: more,
      action: { text: "Look", run: () => goTo("alerts") },
    });
  }
  const overrides = state?.overrides ?? [];
  const probation = state?.probation ?? [];
  if (overrides.length + probation.length > 0) {
    const what = [
      overrides.length > 0 && `${plural(overrides.length, "override")} in force`,
      probation.length > 0 && `${plural(probation.length, "scope")} on probation`,
    ].filter(Boolean);
    const part = (/** @type {import("./types.js").Probation} */ one) =>
      `${scopeText(one.scope)} has ${one.fraction_percent} % of its limits`;
    list.push({
      key: "standing",
      level: "warn",
      title: `${what.join(", ")}.`,
      detail: someOf([...overrides.map(overrideText), ...probation.map(part)]),
      action: { text: "Look", run: () => goTo("overrides") },
    });
  }
  const asks = (/** @type {string} */ by) => may(client.me, "risk") && by !== client.me?.name;
  for (const one of context.pendingOverrides.filter((one) => asks(one.removal?.by ?? one.by))) {
    list.push({
      key: `override-${one.id}`,
      level: "info",
      title: one.removal
        ? `${one.removal.by} asks to take an override back.`
        : `${one.by} asks to override a limit of ${scopeText(one.scope)}.`,
      detail: `${overrideText(one)}. “${one.removal?.reason ?? one.reason}” It needs a second person.`,
      action: { text: "Look at it", run: () => goTo("overrides") },
    });
  }
  for (const rearm of pending.filter((rearm) => asks(rearm.asked_by))) {
    list.push({
      key: `rearm-${rearm.id}`,
      level: "info",
      title: `${rearm.asked_by} asks to re-arm ${scopeText(rearm.scope)}.`,
      detail: `“${rearm.reason}” It needs a second person.`,
      action: { text: "Look at it", run: () => goTo("halts") },
    });
  }
  return list;
}

/** Some of them in one line; the view that is named beside it has all. @param {string[]} texts */
const someOf = (texts) => `${texts.slice(0, 2).join("; ")}${texts.length > 2 ? `; and ${texts.length - 2} more` : ""}.`;

/** @type {KeyedList<Banner>} */
const bannerList = new KeyedList(
  byId("banners"),
  (banner) => banner.key,
  (banner) => {
    const action = banner.action;
    return h(
      "div",
      { class: "banner", "data-level": banner.level },
      h("span", { class: "title" }),
      h("span", { class: "detail" }),
      action && h("button", { type: "button", class: "small", onclick: action.run }, action.text),
    );
  },
  (element, banner) => {
    setText(/** @type {Element} */ (element.querySelector(".title")), banner.title);
    setText(/** @type {Element} */ (element.querySelector(".detail")), banner.detail);
  },
);

function showBanners() {
  bannerList.show(banners());
}

/** @type {KeyedList<View>} */
const tabs = new KeyedList(
  byId("tabs"),
  (view) => view.id,
  (view) => h("a", { href: `#/${view.id}` }, view.title, h("span", { class: "n", hidden: true })),
  (element, view) => {
    setAttribute(element, "aria-current", view === current ? "page" : null);
    const badge = view.badge?.() ?? null;
    const n = /** @type {HTMLElement} */ (element.querySelector(".n"));
    show(n, badge !== null);
    if (badge) {
      setText(n, badge.text);
      setAttribute(n, "data-level", badge.level);
    }
  },
);

function showTabs() {
  tabs.show(views);
}

/** @param {string} id */
function goTo(id) {
  location.hash = `#/${id}`;
}

function route() {
  const id = location.hash.replace(/^#\//, "");
  const next = views.find((view) => view.id === id) ?? views[0];
  if (!next || next === current) return;
  current?.leave?.();
  current = next;
  document.title = `${next.title} · haltline`;
  fill(byId("main"), next.element);
  next.enter?.();
  shownVersion = -1;
  ask();
}

async function refreshPending() {
  if (!client.me) return;
  try {
    const answer = await client.get("/v1/rearm");
    context.pending = answer.rearms.filter((/** @type {any} */ rearm) => rearm.status === "pending");
    if (context.found.has("overrides")) {
      const { overrides } = await client.get("/v1/overrides");
      context.pendingOverrides = overrides.filter(
        (/** @type {import("./types.js").Override} */ one) => one.status === "pending" || one.removal !== null,
      );
    }
    if (context.found.has("alerts")) {
      const { alerts } = await client.get("/v1/alerts?open=true&count=500");
      context.unanswered = alerts.filter(isUnanswered);
    }
    ask();
  } catch {
    // The stream says when haltline cannot be reached.
  }
}

/** Looks which parts this haltline has, and this login may see: what is not there is not shown. */
async function findParts() {
  // What the role does not allow is not asked for: a refusal is written down.
  const audit = may(client.me, "risk") ? ["audit"] : [];
  const optional = ["alerts", "incidents", "overrides", "drills", ...audit];
  await Promise.all(
    optional.map(async (part) => {
      try {
        if ((await client.find(`/v1/${part}`)) !== null) context.found.add(part);
      } catch {
        // Not known: not shown. The stream says when haltline cannot be reached.
      }
    }),
  );
}

/** Kept while somebody is logged in, so that a page that is loaded again asks who it is, and a new one asks nothing. */
const KNOWN = "haltline-logged-in";

/** A page that is loaded again has its login still. */
async function isLoggedIn() {
  if (localStorage.getItem(KNOWN) === null) return false;
  try {
    client.me = await client.get("/v1/me");
    return true;
  } catch {
    return false;
  }
}

async function begin(/** @type {string} */ why) {
  if (why || !(await isLoggedIn())) await login(client, why);
  localStorage.setItem(KNOWN, "yes");
  show(byId("app"), true);
  const scopes = client.me?.scopes ? ` for ${client.me.scopes.map(scopeText).join(", ")}` : "";
  setText(byId("who"), `${client.me?.name ?? ""} · ${client.me?.role ?? ""}${scopes}`);
  show(byId("kill"), may(client.me, "operator"));
  context.store = new Store();
  context.fresh = new Freshness();
  context.pending = [];
  context.pendingOverrides = [];
  context.unanswered = [];
  context.found.clear();
  await findParts();
  views = [
    new Overview(context),
    new LimitsView(context),
    new SessionsView(context),
    new HaltsView(context),
    ...(context.found.has("alerts") ? [new AlertsView(context)] : []),
    ...(context.found.has("overrides") ? [new OverridesView(context)] : []),
    ...(context.found.has("incidents") ? [new IncidentsView(context)] : []),
    ...(context.found.has("drills") ? [new DrillsView(context)] : []),
    ...(context.found.has("audit") ? [new AuditView(context)] : []),
  ];
  current = null;
  route();
  unfollow = follow({
    event(event) {
      context.fresh.heard(performance.now(), event.at_ms);
      const age = event.engine.last_round_age_ns;
      context.fresh.engine(event.engine.stale, age === null ? null : age / 1_000_000);
      context.store.take(event);
      ask();
    },
    lost(reason) {
      context.fresh.lost(reason);
      ask();
    },
    loggedOut: () => client.lost(),
  });
  void refreshPending();
}

function end(/** @type {string} */ why) {
  localStorage.removeItem(KNOWN);
  unfollow?.();
  unfollow = null;
  current?.leave?.();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  void begin(why);
}

client.addEventListener("lost", (event) => end(/** @type {CustomEvent<string>} */ (event).detail));

byId("logout").addEventListener("click", async () => {
  try {
    await client.post("/v1/logout", {});
  } catch (error) {
    // Without an answer the session ends by itself; here it is forgotten now.
    if (!(error instanceof Problem)) console.warn("the logout had no answer");
  }
  client.me = null;
  end("");
});

byId("kill").addEventListener("click", () => openKill(context));

document.addEventListener("keydown", (event) => {
  if (event.altKey && event.shiftKey && event.code === "KeyK" && !event.repeat) {
    event.preventDefault();
    if (may(client.me, "operator") && !document.querySelector("dialog.kill-dialog")) openKill(context);
  }
});

window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", ask);
window.setInterval(ask, CLOCK_MS);
window.setInterval(() => {
  if (!document.hidden) void refreshPending();
}, ASK_MS);

void begin("");
