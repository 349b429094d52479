// Modal dialogs: the browser's own, which keep the focus inside and end with Escape.

import { h } from "./dom.js";

/**
 * Opens a dialog with a title. It goes away with Escape, its close button, or `close`; then what had the focus has it
 * again. A dialog that must not be lost by a stray key says so with `keep`.
 * @param {{ title: string, class?: string, onClose?: () => void, keep?: () => boolean }} options
 * @param {...(import("./dom.js").Child)} children
 */
export function openDialog(options, ...children) {
  const before = /** @type {HTMLElement | null} */ (document.activeElement);
  const title = h("h2", { id: `title-${(serial += 1)}`, tabIndex: -1 }, options.title);
  const closer = h("button", { type: "button", class: "quiet close", "aria-label": "Close" }, "✕");
  const dialog = h(
    "dialog",
    { class: `dialog ${options.class ?? ""}`, "aria-labelledby": title.id },
    h("header", {}, title, closer),
    ...children,
  );
  const close = () => dialog.close();
  closer.addEventListener("click", close);
  dialog.addEventListener("cancel", (event) => {
    if (options.keep?.()) event.preventDefault();
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
    options.onClose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, title, close };
}

let serial = 0;
