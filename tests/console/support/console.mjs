// A test with the real program behind it, people who log in, and no error that a browser saw and nobody looked at.

import { test as base, expect } from "@playwright/test";
import { Haltline } from "./haltline.mjs";

export { expect };

/** What a browser says of requests that tests make fail on purpose. */
const EXPECTED = /Failed to load resource|net::ERR_|the logout had no answer/;

export const test = base.extend({
  /** Strategies of the world. */
  strategies: [24, { option: true }],

  haltline: async ({ strategies }, use) => {
    const haltline = await Haltline.start({ strategies });
    await use(haltline);
    await haltline.stop();
  },

  /** Opens a page of its own context, logged in as somebody: `await enter("rita")`. */
  enter: async ({ browser, haltline, contextOptions, viewport, colorScheme }, use) => {
    /** @type {string[]} */
    const errors = [];
    /** @type {import("@playwright/test").BrowserContext[]} */
    const contexts = [];
    const enter = async (/** @type {string} */ who, /** @type {any} */ options = {}) => {
      const context = await browser.newContext({ ...contextOptions, viewport, colorScheme, ...options });
      contexts.push(context);
      const page = await context.newPage();
      watch(page, errors);
      await page.goto(options.at ?? haltline.http);
      if (who) await login(page, haltline.tokens[who].token);
      return page;
    };
    await use(enter);
    for (const context of contexts) await context.close();
    expect(errors).toEqual([]);
  },
});

/** @param {import("@playwright/test").Page} page @param {string[]} errors */
function watch(page, errors) {
  page.on("pageerror", (error) => errors.push(error.stack ?? error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !EXPECTED.test(message.text())) errors.push(message.text());
  });
}

/** @param {import("@playwright/test").Page} page @param {string} token */
export async function login(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await live(page);
}

/** The page says that what it shows is of now. @param {import("@playwright/test").Page} page */
export const live = (page) => expect(page.locator("#app")).toHaveAttribute("data-fresh", "live");

/** The row of a scope in the list. @param {import("@playwright/test").Page} page @param {string} name */
export const row = (page, name) => page.locator(".rows .row").filter({ hasText: name });

/** Presses kill for a scope as a person with a mouse does. @param {import("@playwright/test").Page} page @param {string} scope @param {string} reason */
export async function kill(page, scope, reason) {
  await page.locator("#kill").click();
  const dialog = page.getByRole("dialog", { name: /^Kill/ });
  if (scope === "firm") await dialog.getByRole("button", { name: /The whole firm/ }).click();
  else {
    await dialog.getByRole("combobox").fill(scope);
    await dialog.getByRole("option").filter({ hasText: scope }).first().click();
  }
  await dialog.getByLabel("Reason").fill(reason);
  await dialog.getByRole("button", { name: /^HALT/ }).click();
  return page.getByRole("dialog", { name: /^Kill:/ });
}

/**
 * Waits until something holds, by asking again.
 * @param {() => Promise<boolean>} holds @param {string} what @param {number} [timeout] in ms
 */
export const until = (holds, what, timeout = 20_000) => expect.poll(holds, { message: what, timeout }).toBe(true);
