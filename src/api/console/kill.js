// The kill: a scope, what it means, a reason if there is time for one, and one press.

import { NoAnswer, Problem, problemText } from "./client.js";
import { openDialog } from "./dialog.js";
import { fill, h, setAttribute, setText, show, VirtualList } from "./dom.js";
import { amount, modeText, plural, scopeKey, scopeText } from "./format.js";
import { stateOf } from "./scopes.js";
import { ReceiptPanel } from "./receipt.js";
import { KINDS } from "./store.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./types.js").ScopeName} ScopeName */
/** @typedef {import("./types.js").ScopeState} ScopeState */

const OPTION_PX = 34;
/** What a press may take before it is sent again with the same key: haltline answers within milliseconds. */
const PRESS_MS = 3_000;
/** Between attempts of a press that had no answer. */
const AGAIN_MS = 500;
/** Consequences are looked at anew this often. */
const LOOK_MS = 1_000;
const REASONS = ["Runaway strategy", "Wrong positions", "Bad market data", "Venue problem", "Asked for by risk"];

/** @param {Context} context @param {ScopeName} [scope] chosen already */
export function openKill(context, scope) {
  new KillDialog(context, scope);
}

class KillDialog {
  /** @param {Context} context @param {ScopeName} [scope] */
  constructor(context, scope) {
    this.context = context;
    /** @type {ScopeName | null} */
    this.chosen = scope ?? null;
    this.pressed = false;
    /** @type {ScopeState[]} */
    this.options = [];
    this.active = -1;
    /** One press, however often it has to be sent. */
    this.key = crypto.getRandomValues(new Uint32Array(4)).join("-");
    /** What haltline says a kill of the chosen scope does. @type {import("./types.js").Preview | null} */
    this.preview = null;
    this.previewing = false;

    this.firm = h(
      "button",
      {
        type: "button",
        class: "choose-firm",
        "aria-pressed": "false",
        onclick: () => this.choose({ kind: "firm", name: "" }),
      },
      h("span", {}, "The whole firm"),
      h("span", { class: "num" }),
    );
    this.search = h("input", {
      type: "text",
      role: "combobox",
      "aria-expanded": "true",
      "aria-controls": "kill-options",
      "aria-autocomplete": "list",
      "aria-label": "Or find a scope: account, strategy, session, instrument",
      placeholder: "Or a scope: type its name, ↓ and Enter choose",
      spellcheck: false,
      autocomplete: "off",
      oninput: () => this.list(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
    });
    this.optionsBody = h("div", { class: "rows-body", role: "presentation" });
    this.optionsBox = h(
      "div",
      { class: "options", id: "kill-options", role: "listbox", "aria-label": "Scopes", tabIndex: -1 },
      this.optionsBody,
    );
    this.virtual = new VirtualList(this.optionsBox, this.optionsBody, {
      rowHeight: () => OPTION_PX,
      key: (known) => known.key,
      make: (known) => this.makeOption(known),
      update: (element, known) => this.updateOption(element, known),
    });

    this.says = h("p", { class: "says" });
    this.details = h("div", { class: "muted" });
    this.consequences = h("div", { class: "consequences", id: "kill-consequences" }, this.says, this.details);
    const mode = (
      /** @type {string} */ value,
      /** @type {string} */ title,
      /** @type {string} */ detail,
      /** @type {boolean} */ checked,
    ) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: "kill-mode", value, checked, onchange: () => this.show() }),
        title,
        h("small", {}, detail),
      );
    this.modes = h(
      "fieldset",
      { class: "modes", "aria-label": "What it becomes" },
      mode("halted", "Halt", "No new orders. Cancels pass.", true),
      mode("reduce_only", "Reduce-only", "Only what makes a position smaller.", false),
    );
    this.reason = h("input", {
      type: "text",
      id: "kill-reason",
      maxLength: 400,
      autocomplete: "off",
      onkeydown: noEnter,
    });
    const quick = h(
      "div",
      { class: "quick" },
      REASONS.map((text) =>
        h("button", { type: "button", onclick: () => ((this.reason.value = text), this.reason.focus()) }, text),
      ),
    );
    this.press = h("button", {
      type: "button",
      class: "press",
      disabled: true,
      onclick: () => this.send(),
      onkeydown: noRepeat,
    });
    this.said = h("p", { class: "said", role: "alert" });
    this.form = h(
      "div",
      { class: "content" },
      h("div", { class: "choose" }, this.firm, this.search, this.optionsBox),
      this.consequences,
      this.modes,
      h(
        "div",
        { class: "field" },
        h("label", { for: "kill-reason" }, "Reason ", h("span", { class: "muted" }, "(can be left out)")),
        quick,
        this.reason,
      ),
      this.said,
      this.press,
      h(
        "p",
        { class: "hint" },
        "Enter in a field presses nothing: one Tab from the reason is the red button, then Space or Enter. Escape leaves without a press.",
      ),
    );
    const { dialog, title } = openDialog(
      { title: "Kill", class: "kill-dialog", onClose: () => this.end(), keep: () => this.pressed && !this.receipt },
      this.form,
    );
    this.dialog = dialog;
    this.title = title;
    this.timer = setInterval(() => (this.show(), void this.look()), LOOK_MS);
    this.list();
    this.show();
    if (this.chosen) this.reason.focus();
    else this.firm.focus();
  }

  end() {
    clearInterval(this.timer);
    this.receipt?.end();
  }

  /** @returns {"halted" | "reduce_only"} */
  mode() {
    const chosen = /** @type {HTMLInputElement | null} */ (this.modes.querySelector(":checked"));
    return chosen?.value === "reduce_only" ? "reduce_only" : "halted";
  }

  list() {
    const wanted = this.search.value.trim().toLowerCase();
    const kind = (/** @type {ScopeState} */ known) => KINDS.indexOf(known.scope.kind);
    const starts = (/** @type {ScopeState} */ known) => Number(!known.scope.name.toLowerCase().startsWith(wanted));
    this.options = [...this.context.store.scopes.values()]
      .filter(
        (known) =>
          known.scope.kind !== "firm" &&
          known.scope.kind !== "pair" &&
          (!wanted || scopeText(known.scope).toLowerCase().includes(wanted)),
      )
      .sort(
        (a, b) =>
          (wanted ? starts(a) - starts(b) : 0) ||
          b.rank - a.rank ||
          b.percent - a.percent ||
          kind(a) - kind(b) ||
          (a.scope.name < b.scope.name ? -1 : 1),
      );
    // An instrument that nobody has traded is in no list, and can be halted before somebody does.
    const typed = this.search.value.trim();
    if (typed && this.options.length === 0) this.options = [unlisted(typed)];
    this.active = wanted && this.options.length > 0 ? 0 : -1;
    this.optionsBox.scrollTop = 0;
    this.virtual.show(this.options);
    this.point();
  }

  point() {
    const known = this.options[this.active];
    setAttribute(this.search, "aria-activedescendant", known ? `kill-option-${known.key}` : null);
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.active = Math.max(0, Math.min(this.options.length - 1, this.active + step));
      const top = this.active * OPTION_PX;
      const box = this.optionsBox;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top + OPTION_PX > box.scrollTop + box.clientHeight) box.scrollTop = top + OPTION_PX - box.clientHeight;
      this.virtual.render();
      this.point();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const known = this.options[this.active];
      if (known) this.choose(known.scope);
    }
  }

  /** @param {ScopeState} known */
  makeOption(known) {
    return h(
      "div",
      { class: "option", role: "option", id: `kill-option-${known.key}`, onclick: () => this.choose(known.scope) },
      h("span", {}, h("span", { class: "kind" }, known.scope.kind, " "), known.scope.name),
      h("span", { class: "state" }),
      h("span", { class: "num" }),
    );
  }

  /** @param {HTMLElement} element @param {ScopeState} known */
  updateOption(element, known) {
    setAttribute(element, "aria-rowindex", null);
    const listed = this.context.store.scopes.has(known.key);
    const of = listed
      ? stateOf(known, this.context.verdict.word === "live")
      : { severity: "unknown", text: "not traded" };
    const [, state, use] = element.children;
    setAttribute(state, "data-severity", of.severity);
    setText(state, of.text);
    setText(use, known.row.worst ? `${known.row.worst.percent.toFixed(0)} %` : "");
    setAttribute(element, "aria-selected", String(this.chosen !== null && scopeKey(this.chosen) === known.key));
    element.classList.toggle("active", this.options[this.active] === known);
  }

  /** @param {ScopeName} scope */
  choose(scope) {
    this.chosen = scope;
    this.preview = null;
    void this.look();
    this.show();
    // Not the button itself: an Enter that is held down, or hit twice, must not press. One Tab from here does.
    this.reason.focus();
    this.press.scrollIntoView({ block: "nearest" });
  }

  /** Asks for the consequences. The press never waits for them; that there is no such scope is said. */
  async look() {
    const scope = this.chosen;
    if (!scope || this.previewing || this.pressed) return;
    this.previewing = true;
    const name = scope.name ? `&name=${encodeURIComponent(scope.name)}` : "";
    try {
      const preview = await this.context.client.get(`/v1/kill/preview?kind=${scope.kind}${name}`, { timeoutMs: 2_000 });
      if (this.chosen === scope) this.preview = preview;
      setText(this.said, "");
    } catch (error) {
      this.preview = null;
      setText(this.said, error instanceof Problem && error.status === 422 ? error.text : "");
    } finally {
      this.previewing = false;
    }
    this.show();
  }

  show() {
    if (this.pressed) return;
    const { store, verdict } = this.context;
    const firmWorking = store.state?.totals.working_orders ?? 0;
    const asked = this.chosen?.kind === "firm" ? this.preview?.working_orders : null;
    setText(/** @type {Element} */ (this.firm.lastElementChild), plural(asked ?? firmWorking, "working order"));
    setAttribute(this.firm, "aria-pressed", String(this.chosen?.kind === "firm"));
    this.virtual.render();
    const mode = this.mode();
    this.press.classList.toggle("reduce", mode === "reduce_only");
    if (!this.chosen) {
      setText(this.says, "Choose what to halt.");
      fill(this.details);
      setText(this.press, "Choose a scope first");
      this.press.disabled = true;
      return;
    }
    const name = scopeText(this.chosen);
    const known = store.scopes.get(scopeKey(this.chosen));
    const working =
      this.preview?.working_orders ?? (this.chosen.kind === "firm" ? firmWorking : (known?.row.working ?? 0));
    const orders = plural(working, "working order");
    const old = this.preview || verdict.word === "live" ? "" : " when haltline was last heard";
    const among = this.preview
      ? ` in ${plural(this.preview.sessions.length, "session")}${this.preview.sessions_complete ? "" : " or more"}`
      : "";
    // What is canceled is the configuration's to say: by itself a halt cancels, reduce-only does not.
    const cancels = this.preview?.cancels[mode] ?? mode === "halted";
    const does = mode === "halted" ? `Halts ${name}` : `Lets ${name} only reduce`;
    const stay = `${orders}${among} ${working === 1 ? "stays" : "stay"} working`;
    setText(this.says, cancels ? `${does} and cancels ${orders}${among}${old}.` : `${does}. ${stay}${old}.`);
    fill(this.details, ...this.detailsOf(known?.row.mode ?? "normal"));
    setText(this.press, mode === "halted" ? `HALT ${name.toUpperCase()}` : `REDUCE ${name.toUpperCase()} ONLY`);
    this.press.disabled = false;
  }

  /** @param {string} mode the scope's now */
  detailsOf(mode) {
    const lines = [];
    if (mode !== "normal") lines.push(`It is ${modeText(mode)} already; a press makes a new receipt.`);
    const away = (this.preview?.sessions ?? []).filter((session) => !session.connected);
    if (away.length > 0) {
      const names = away
        .map((session) => session.name)
        .slice(0, 5)
        .join(", ");
      lines.push(`NOT CONNECTED, so nobody can be told to cancel: ${names}.`);
    }
    if (this.preview?.gross)
      lines.push(`Positions stay as they are: ${amount(this.preview.gross, this.preview.unit)} gross.`);
    lines.push("It lasts until somebody with the risk role re-arms it.");
    return lines.map((line) => h("p", {}, line));
  }

  async send() {
    if (this.pressed || !this.chosen) return;
    this.pressed = true;
    const { client } = this.context;
    const scope = this.chosen;
    const body = { scope, mode: this.mode(), reason: this.reason.value.trim(), wait_ms: 50 };
    const panel = new ReceiptPanel(this.context);
    setText(this.title, `Kill: ${scopeText(scope)}`);
    this.form.replaceWith(panel.element);
    this.title.focus();
    for (let attempt = 1; ; attempt += 1) {
      panel.pressing(attempt);
      try {
        const receipt = await client.ask("POST", "/v1/kill", {
          body,
          headers: { "idempotency-key": this.key },
          timeoutMs: PRESS_MS,
          urgent: true,
        });
        this.receipt = panel;
        panel.follow(receipt);
        return;
      } catch (error) {
        if (error instanceof Problem && error.status < 500) {
          // Refused: nothing was halted, and sending it again changes nothing.
          panel.refused(problemText(error));
          this.receipt = panel;
          return;
        }
        if (!this.dialog.isConnected) return;
        panel.unknown(error instanceof NoAnswer ? error.message : problemText(error), attempt);
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}

/** An instrument by the name that was typed, of which nothing is known. @param {string} name @returns {ScopeState} */
function unlisted(name) {
  const scope = { kind: "instrument", name };
  const known = { mode: "normal", epoch: 0, in_force: "normal", working: 0, warned: null, worst: null };
  return { key: scopeKey(scope), scope, row: { ...scope, ...known }, severity: "normal", rank: 0, percent: 0 };
}

/** A key that is held down presses nothing. @param {KeyboardEvent} event */
function noRepeat(event) {
  if (event.repeat) event.preventDefault();
}

/** @param {KeyboardEvent} event */
function noEnter(event) {
  if (event.key === "Enter") event.preventDefault();
}
