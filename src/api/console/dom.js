// Elements without markup in strings, lists that keep their elements by key, and a list that shows only what is seen.

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 * @typedef {Record<string, any>} Props
 */

/**
 * Makes an element. `on…` are listeners, `class` and `data-…` and `aria-…` attributes, the rest properties.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Props} [props] @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on") && typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "class" || name.includes("-") || name === "role" || name === "for")
      element.setAttribute(name, String(value));
    else /** @type {any} */ (element)[name] = value;
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/**
 * A table that scrolls sideways where it is wider than its place. A column without a name has buttons; one whose name begins
 * with `>` has numbers, at its right.
 * @param {string} label @param {string[]} heads @param {HTMLElement} body
 */
export function scrolling(label, heads, body) {
  const head = (/** @type {string} */ text) => {
    if (!text) return h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Actions"));
    const right = text.startsWith(">");
    return h("th", { scope: "col", class: right ? "right" : "" }, right ? text.slice(1) : text);
  };
  return h(
    "div",
    { class: "table-wrap", tabIndex: 0, role: "region", "aria-label": label },
    h("table", {}, heads.length > 0 && h("thead", {}, h("tr", {}, heads.map(head))), body),
  );
}

/** Sets a text only if it is another one: what has not changed is not laid out again. @param {Element} element @param {string} text */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute only if it is another one. @param {Element} element @param {string} name @param {string | null} value */
export function setAttribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** @param {HTMLElement} element @param {boolean} shown */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/** Replaces all children. @param {Element} element @param {...(Child | Child[])} children */
export function fill(element, ...children) {
  const nodes = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...nodes.map((child) => (child instanceof Node ? child : String(child))));
}

/** The element of the page with this id; there is one. @param {string} id */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * Elements by key: made once, updated in place, moved only if the order changed.
 * @template T
 */
export class KeyedList {
  /**
   * @param {Element} parent
   * @param {(item: T) => string} key
   * @param {(item: T) => HTMLElement} make
   * @param {(element: HTMLElement, item: T) => void} update
   */
  constructor(parent, key, make, update) {
    this.parent = parent;
    this.key = key;
    this.make = make;
    this.update = update;
    /** @type {Map<string, HTMLElement>} */
    this.elements = new Map();
  }

  /** @param {Iterable<T>} items */
  show(items) {
    const seen = new Set();
    let place = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      if (seen.has(key)) continue;
      seen.add(key);
      let element = this.elements.get(key);
      if (!element) {
        element = this.make(item);
        this.elements.set(key, element);
      }
      this.update(element, item);
      if (element === place) place = place.nextElementSibling;
      else this.parent.insertBefore(element, place);
    }
    for (const [key, element] of this.elements) {
      if (!seen.has(key)) {
        element.remove();
        this.elements.delete(key);
      }
    }
  }
}

/** Rows kept ready above and below what is seen. */
const MARGIN_ROWS = 6;

/**
 * A list of equal rows that has elements for what is seen only: a thousand rows cost as much as thirty. An element is
 * bound to its item for as long as the item is seen, so what a pointer or the focus is on does not become another.
 * @template T
 */
export class VirtualList {
  /**
   * @param {HTMLElement} scroller scrolls, and has a known height
   * @param {HTMLElement} body holds the rows
   * @param {{ rowHeight: () => number, key: (item: T) => string, make: (item: T) => HTMLElement, update: (element: HTMLElement, item: T) => void }} how
   */
  constructor(scroller, body, how) {
    this.scroller = scroller;
    this.body = body;
    this.how = how;
    /** @type {T[]} */
    this.items = [];
    /** @type {Map<string, HTMLElement>} */
    this.elements = new Map();
    let asked = false;
    scroller.addEventListener(
      "scroll",
      () => {
        if (asked) return;
        asked = true;
        requestAnimationFrame(() => {
          asked = false;
          this.render();
        });
      },
      { passive: true },
    );
  }

  /** @param {T[]} items */
  show(items) {
    this.items = items;
    this.render();
  }

  render() {
    const height = this.how.rowHeight();
    const seenFrom = Math.max(0, this.scroller.scrollTop);
    const first = Math.max(0, Math.floor(seenFrom / height) - MARGIN_ROWS);
    const last = Math.min(this.items.length, Math.ceil((seenFrom + this.scroller.clientHeight) / height) + MARGIN_ROWS);
    this.body.style.height = `${this.items.length * height}px`;
    const seen = new Set();
    for (let i = first; i < last; i += 1) this.place(i, height, seen);
    // The row that has the focus stays, wherever it is now: a person is on it.
    const focused = this.body.contains(document.activeElement) ? document.activeElement : null;
    for (const [key, element] of this.elements) {
      if (seen.has(key)) continue;
      const at = focused && element.contains(focused) ? this.items.findIndex((item) => this.how.key(item) === key) : -1;
      if (at >= 0) this.place(at, height, seen);
      else {
        element.remove();
        this.elements.delete(key);
      }
    }
  }

  /** @param {number} i @param {number} height @param {Set<string>} seen */
  place(i, height, seen) {
    const item = this.items[i];
    const key = this.how.key(item);
    seen.add(key);
    let element = this.elements.get(key);
    if (!element) {
      element = this.how.make(item);
      this.elements.set(key, element);
      this.body.append(element);
    }
    setAttribute(element, "aria-rowindex", String(i + 2));
    const moved = `translateY(${i * height}px)`;
    if (element.style.transform !== moved) element.style.transform = moved;
    this.how.update(element, item);
  }
}
