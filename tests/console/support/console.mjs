// A test with the real program behind it, people who log in, and no error that a browser saw and nobody looked at.

import { fileURLToPath } from "node:url";
import { test as base, expect } from "@playwright/test";
import { Haltline } from "./haltline.mjs";

export { expect };

/** What a browser says of requests that tests make fail on purpose. */
const EXPECTED = /Failed to load resource|net::ERR_|the logout had no answer/;

export const test = base.extend({
  /** Strategies of the world. */
  strategies: [24, { option: true }],

  /** Further configuration. */
  more: ["", { option: true }],

  haltline: async ({ strategies, more }, use) => {
    const haltline = await Haltline.start({ strategies, more });
    await use(haltline);
    await haltline.stop();
  },

  /** Opens a page of its own context, logged in as somebody: `await enter("rita")`. `of`: at another haltline; `at`: by another way. */
  enter: async ({ browser, haltline, contextOptions, viewport, colorScheme }, use) => {
    /** @type {string[]} */
    const errors = [];
    /** @type {import("@playwright/test").BrowserContext[]} */
    const contexts = [];
    const enter = async (
      /** @type {string} */ who,
      /** @type {any} */ { of = haltline, at = of.http, ...options } = {},
    ) => {
      const context = await browser.newContext({ ...contextOptions, viewport, colorScheme, ...options });
      contexts.push(context);
      if (process.env.CONSOLE_FILES) await asTheyAreNow(context);
      const page = await context.newPage();
      watch(page, errors);
      await page.goto(at);
      if (who) await login(page, of.tokens[who].token);
      return page;
    };
    await use(enter);
    for (const context of contexts) await context.close();
    expect(errors).toEqual([]);
  },
});

/** The page's files as they lie there, not as they were built in: to look at a change at once. @param {import("@playwright/test").BrowserContext} context */
const asTheyAreNow = (context) =>
  context.route(/\/console\/[0-9a-f]{16}\/.+/, (route) => {
    const name = new URL(route.request().url()).pathname.replace(/^\/console\/[0-9a-f]{16}\//, "");
    return route.fulfill({ path: fileURLToPath(new URL(`../../../src/api/console/${name}`, import.meta.url)) });
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

/**
 * The page says that what it shows is old. That it is stale it says for some seconds only: then it counts as disconnected, and a test
 * may look late.
 * @param {import("@playwright/test").Page} page
 */
export const old = (page) => expect(page.locator("#app")).toHaveAttribute("data-fresh", /^(stale|disconnected)$/);

/** The row of a scope in the list. @param {import("@playwright/test").Page} page @param {string} name */
export const row = (page, name) => page.locator(".rows .row").filter({ hasText: name });

/**
 * The row of a scope that need not be among the worst: only what is in sight is in the page, so it is looked for as a
 * person does.
 * @param {import("@playwright/test").Page} page @param {string} name
 */
export async function find(page, name) {
  await page.getByLabel("Find a scope by name").fill(name);
  await expect(row(page, name)).toHaveCount(1);
  return row(page, name);
}

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

/** Goes to a view. @param {import("@playwright/test").Page} page @param {string} title */
export const goTo = async (page, title) => {
  const tab = page.locator("#tabs a").filter({ hasText: title });
  await tab.click();
  await expect(tab).toHaveAttribute("aria-current", "page");
};

/** What has to be seen whatever one looks at. @param {import("@playwright/test").Page} page @param {string | RegExp} text */
export const banner = (page, text) => page.locator(".banner").filter({ hasText: text });

/**
 * Re-arms a scope by two people, without looking at it.
 * @param {import("./haltline.mjs").Haltline} haltline @param {{ kind: string, name: string }} scope
 */
export async function rearm(haltline, scope) {
  const { body: state } = await haltline.ask("rita", "GET", "/v1/state");
  const halt = state.halts.find(
    (/** @type {any} */ one) => one.scope.kind === scope.kind && one.scope.name === scope.name,
  );
  const ask = { scope, epoch: halt.epoch, reason: "it is right", wait_ms: 5_000 };
  const asked = await haltline.ask("rita", "POST", "/v1/rearm", ask);
  if (asked.body.status !== "pending") return;
  await haltline.ask("ruth", "POST", `/v1/rearm/${asked.body.id}/approve`, { reason: "I looked, too" });
  const done = async () => (await haltline.ask("ruth", "GET", `/v1/rearm/${asked.body.id}`)).body.status === "done";
  await until(done, "it is re-armed, and that is on disk");
}

/**
 * Waits until something holds, by asking again.
 * @param {() => Promise<boolean>} holds @param {string} what @param {number} [timeout] in ms
 */
export const until = (holds, what, timeout = 120_000) => expect.poll(holds, { message: what, timeout }).toBe(true);
