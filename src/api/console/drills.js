// Drills: the switch rehearsed end to end, and what that showed.

import { may, problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, setText } from "./dom.js";
import { moment, scopeText, span } from "./format.js";
import { Asking } from "./records.js";
import { KINDS } from "./store.js";

/** @typedef {import("./app.js").Context} Context */

/** A drill waits for gateways: longer than other requests. */
const DRILL_MS = 60_000;

export class DrillsView extends Asking {
  /** @param {Context} context */
  constructor(context) {
    super(context, "drills", "Drills", "/v1/drills", [
      "Outcome",
      "When",
      "Scope",
      "By",
      "Shown",
      "Not shown, and failures",
    ]);
    this.last = h("span", { class: "muted num" });
    const begin =
      may(context.client.me, "risk") &&
      h(
        "button",
        { type: "button", class: "small", onclick: () => openDrill(context, () => void this.look()) },
        "Drill…",
      );
    this.header.append(this.last, ...(begin ? [begin] : []));
  }

  /** @param {any} answer */
  rows(answer) {
    setText(this.last, answer.last_passed ? `last passed ${moment(answer.last_passed)}` : "none has passed yet");
    return answer.drills.map((/** @type {any} */ drill) => {
      const { observed } = drill;
      const list = (/** @type {string[]} */ texts, /** @type {string} */ level) =>
        texts.map((text) => h("div", level ? { class: "said" } : {}, text));
      return h(
        "tr",
        {},
        h(
          "td",
          {},
          h(
            "span",
            { class: "chip", "data-level": drill.passed ? "good" : "danger" },
            drill.passed ? "passed" : "NOT PASSED",
          ),
        ),
        h(
          "td",
          { class: "tight num" },
          moment(drill.began_at),
          h("div", { class: "muted" }, `took ${span(observed.took_ns)}`),
        ),
        h("td", { class: "tight" }, h("b", {}, scopeText(observed.scope))),
        h("td", {}, h("b", {}, observed.by), ` “${observed.reason}”`),
        h("td", {}, list(drill.proved, "")),
        h("td", {}, list(drill.failed, "bad"), list(drill.not_proved, "")),
      );
    });
  }
}

/** @param {Context} context @param {() => void} then */
function openDrill(context, then) {
  const kind = h(
    "select",
    { id: "drill-kind", onchange: () => (name.disabled = kind.value === "" || kind.value === "firm") },
    h("option", { value: "" }, "the scope made for drills"),
    KINDS.filter((of) => of !== "pair").map((of) => h("option", { value: of }, of)),
  );
  const name = h("input", { type: "text", id: "drill-name", disabled: true, autocomplete: "off", spellcheck: false });
  const reason = h("input", { type: "text", id: "drill-reason", maxLength: 400, autocomplete: "off" });
  const said = h("p", { class: "said", role: "alert" });
  const button = h("button", { type: "button", class: "primary", onclick: () => void go() }, "Begin the drill");
  const go = async () => {
    button.disabled = true;
    setText(said, "Under way …");
    const scope = kind.value ? { kind: kind.value, name: kind.value === "firm" ? "" : name.value.trim() } : undefined;
    try {
      const body = { scope, reason: reason.value.trim() };
      const drill = await context.client.ask("POST", "/v1/drills", { body, timeoutMs: DRILL_MS });
      const verdict = h(
        "div",
        { class: "verdict", role: "status", "data-status": drill.passed ? "confirmed" : "unconfirmed" },
        drill.passed ? "PASSED" : "NOT PASSED",
        h("small", {}, [...drill.failed, ...drill.proved].join("; ")),
      );
      fill(content, verdict);
      footer.remove();
      then();
    } catch (error) {
      setText(said, problemText(error));
      button.disabled = false;
    }
  };
  const footer = h("footer", {}, button);
  const field = (/** @type {string} */ id, /** @type {string} */ text, /** @type {HTMLElement} */ input) =>
    h("div", { class: "field" }, h("label", { for: id }, text), input);
  const content = h(
    "div",
    { class: "content" },
    h(
      "p",
      {},
      "A drill halts the scope, looks whether that is obeyed, and takes the halt back. A scope that trades is refused.",
    ),
    field("drill-kind", "Scope", kind),
    field("drill-name", "Its name", name),
    field("drill-reason", "Reason", reason),
    said,
  );
  openDialog({ title: "Drill" }, content, footer);
  kind.focus();
}
