// The login: a token is shown to the server once, and forgotten here.

import { Problem, problemText } from "./client.js";
import { byId, setText, show } from "./dom.js";

/**
 * Asks until somebody is logged in.
 * @param {import("./client.js").Client} client @param {string} [why] shown above the form
 * @returns {Promise<void>}
 */
export function login(client, why = "") {
  const form = /** @type {HTMLFormElement} */ (byId("login-form"));
  const token = /** @type {HTMLInputElement} */ (byId("login-token"));
  const said = byId("login-said");
  const button = /** @type {HTMLButtonElement} */ (byId("login-button"));
  show(byId("app"), false);
  show(byId("login"), true);
  setText(said, why);
  token.focus();
  return new Promise((resolve) => {
    const submit = async (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!token.value.trim()) {
        setText(said, "A token is needed.");
        return;
      }
      button.disabled = true;
      setText(said, "Asking …");
      try {
        client.me = await client.post("/v1/login", { token: token.value.trim() });
        token.value = "";
        setText(said, "");
        form.removeEventListener("submit", submit);
        show(byId("login"), false);
        resolve();
      } catch (error) {
        setText(
          said,
          error instanceof Problem && error.status === 401 ? "This token is not known." : problemText(error),
        );
        token.select();
      } finally {
        button.disabled = false;
      }
    };
    form.addEventListener("submit", submit);
  });
}
