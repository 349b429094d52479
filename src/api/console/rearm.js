// The way back: causes read, a reason, and a second person where the configuration wants one.

import { problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, setAttribute, setText } from "./dom.js";
import { modeText, plural, scopeKey, scopeText } from "./format.js";
import { causeLine } from "./halts.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").Rearm} Rearm */

/** @param {Context} context @param {import("./types.js").ScopeName} scope */
export function openRearm(context, scope) {
  const halt = context.store.halts.get(scopeKey(scope));
  if (!halt) return;
  const name = scopeText(scope);
  const form = decision({
    context,
    name,
    mode: halt.mode,
    epoch: halt.epoch,
    causes: halt.causes,
    button: `Re-arm ${name}`,
    before: h(
      "div",
      {},
      h(
        "p",
        {},
        "Flow in this scope is allowed again from the moment of the re-arm. A kill since what you see here wins: then this is refused.",
      ),
      stays(context, scope),
    ),
    send: async (reason) => {
      // Good once, for this login: what somebody caught on its way cannot be sent again.
      const { nonce } = await context.client.get("/v1/rearm/nonce");
      const latest = halt.causes.reduce((a, b) => (b.epoch > a.epoch ? b : a), halt.causes[0]);
      return context.client.post("/v1/rearm", { scope, epoch: halt.epoch, reason, acknowledge: latest?.id, nonce });
    },
  });
  openDialog({ title: `Re-arm ${name}` }, ...form);
}

/** Halts that a re-arm of `scope` does not lift, so that nobody thinks that all flows again. @param {Context} context @param {import("./types.js").ScopeName} scope */
function stays(context, scope) {
  const others = [...context.store.halts.values()].filter((halt) => scopeKey(halt.scope) !== scopeKey(scope));
  if (others.length === 0) return null;
  const names = others.slice(0, 6).map((halt) => `${scopeText(halt.scope)} (${modeText(halt.mode)})`);
  const more = others.length > names.length ? ` and ${others.length - names.length} more` : "";
  return h("p", {}, h("b", {}, "Stays as it is: "), `${names.join(", ")}${more}.`);
}

/** @param {Context} context @param {Rearm} rearm */
export function openApprove(context, rearm) {
  const name = scopeText(rearm.scope);
  const halt = context.store.halts.get(scopeKey(rearm.scope));
  const form = decision({
    context,
    name,
    mode: rearm.mode,
    epoch: rearm.epoch,
    causes: halt?.causes ?? [],
    button: `Agree: re-arm ${name}`,
    before: h(
      "div",
      {},
      h(
        "p",
        {},
        h("b", {}, rearm.asked_by),
        " asks for it: ",
        h("q", {}, rearm.reason),
        ` (${plural(rearm.expires_in_seconds ?? 0, "second")} left). With your agreement flow is allowed again.`,
      ),
      stays(context, rearm.scope),
    ),
    send: (reason) => context.client.post(`/v1/rearm/${rearm.id}/approve`, { reason }),
  });
  openDialog({ title: `Second person: re-arm ${name}` }, ...form);
}

/**
 * @param {{
 *   context: Context, name: string, mode: string, epoch: number, causes: import("./types.js").Cause[], button: string,
 *   before: HTMLElement, send: (reason: string) => Promise<Rearm>
 * }} what
 */
function decision(what) {
  const said = h("div", { class: "said", role: "alert" });
  const read = h("input", { type: "checkbox", id: "rearm-read", onchange: () => ready() });
  const reason = h("input", {
    type: "text",
    id: "rearm-reason",
    maxLength: 400,
    autocomplete: "off",
    oninput: () => ready(),
  });
  const button = h(
    "button",
    { type: "button", class: "primary", disabled: true, onclick: () => void send() },
    what.button,
  );
  const hint = h("span", { class: "hint" });
  const ready = () => {
    const missing = [read.checked ? "" : "the causes read", reason.value.trim() ? "" : "a reason"].filter(Boolean);
    button.disabled = missing.length > 0;
    setText(hint, missing.length > 0 ? `Missing: ${missing.join(" and ")}.` : "");
  };
  const send = async () => {
    button.disabled = true;
    setText(said, "");
    try {
      const rearm = await what.send(reason.value.trim());
      void what.context.refreshPending();
      fill(content, outcome(rearm));
      footer.remove();
    } catch (error) {
      setText(said, problemText(error));
      ready();
    }
  };
  const footer = h("footer", {}, hint, button);
  const content = h(
    "div",
    { class: "content" },
    h(
      "p",
      {},
      h("span", { class: "state", "data-severity": what.mode }, modeText(what.mode)),
      ` since epoch ${what.epoch}`,
    ),
    h(
      "section",
      { "aria-label": "Causes" },
      h("h3", {}, plural(what.causes.length, "cause")),
      h("ul", { class: "causes" }, what.causes.map(causeLine)),
    ),
    what.before,
    h("label", { class: "check", for: "rearm-read" }, read, "I have read the causes, and they are gone."),
    h("div", { class: "field" }, h("label", { for: "rearm-reason" }, "Reason"), reason),
    said,
  );
  ready();
  return [content, footer];
}

/** @param {Rearm} rearm */
function outcome(rearm) {
  const texts = {
    done: ["confirmed", "RE-ARMED", "Flow is allowed again, and the disk says so too."],
    lowered: ["unconfirmed", "RE-ARMED, but not on disk yet", "After a restart now it would be halted again."],
    pending: [
      "pressing",
      "WAITS for a second person",
      "Nothing has changed yet: it stays halted. Somebody else with the risk role has to agree, at this console or by command.",
    ],
    void: ["unknown", "VOID", "It was halted again in the meantime. Look at the causes anew."],
    expired: ["unknown", "EXPIRED", "Nobody agreed in time."],
  };
  const [status, text, detail] = texts[/** @type {keyof typeof texts} */ (rearm.status)] ?? [
    "unknown",
    rearm.status,
    "",
  ];
  const element = h("div", { class: "verdict", role: "status" }, text, h("small", {}, detail));
  setAttribute(element, "data-status", status);
  return element;
}
