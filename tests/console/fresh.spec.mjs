// What the page says when it cannot know: never a green that nobody vouches for, and a kill that works all the same.

import { expect, find, goTo, kill, live, login, old, test, until } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";
import { Proxy } from "./support/proxy.mjs";

/** @typedef {import("@playwright/test").Page} Page */

/** Nothing on the page is shown as well. @param {Page} page */
async function expectNoGreen(page) {
  await expect(page.locator("#firm")).not.toHaveAttribute("data-severity", "normal");
  await expect(page.locator(".rows .state[data-severity='normal']")).toHaveCount(0);
  await expect(page.locator(".rows .state").first()).toBeVisible();
}

/** Everything within the page that is green, as a browser paints it. @param {Page} page */
const greens = (page) =>
  page.evaluate(() => {
    const probe = document.createElement("i");
    probe.style.color = "var(--green)";
    document.body.append(probe);
    const green = getComputedStyle(probe).color;
    probe.remove();
    /** @type {string[]} */
    const found = [];
    for (const element of document.querySelectorAll("#app, #app *")) {
      if (element.getClientRects().length === 0) continue;
      for (const part of [undefined, "::before"]) {
        const style = getComputedStyle(element, part);
        const painted = [style.backgroundColor, style.borderTopColor];
        // A colour of text is seen where there is text.
        const text = part ? style.content !== "none" : element.childElementCount === 0 && element.textContent?.trim();
        if (text) painted.push(style.color);
        if (painted.includes(green) && (style.borderTopWidth !== "0px" || text || style.backgroundColor === green))
          found.push(`${element.tagName} ${element.className} ${element.textContent}`);
      }
    }
    return found;
  });

const fresh = (/** @type {import("@playwright/test").Page} */ page) => expect(page.locator("#app"));

test("a stream that stands still is stale, and live again by itself", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.order("arb-01");
  const proxy = await Proxy.before(haltline.http);
  const page = await enter("olaf", { at: proxy.http });
  await expect((await find(page, "arb-01")).locator(".state")).toHaveText("normal");
  await page.getByLabel("Find a scope by name").fill("");
  proxy.frozen = true;
  await old(page);
  await expectNoGreen(page);
  await expect(page.locator("#firm")).toHaveText("Firm unknown");
  await expect(page.locator(".banner")).toContainText(/STALE|DISCONNECTED/);
  await expect(page.locator("#fresh-word")).toContainText(/Stale|Disconnected/);
  proxy.frozen = false;
  // What was missed while it stood still is not guessed: the page begins with the whole state again.
  await live(page);
  await expect(page.locator("#firm")).toHaveText("Firm normal");
  await proxy.stop();
});

test("a halt that was known stays shown while nobody vouches for it", async ({ haltline, enter }) => {
  const proxy = await Proxy.before(haltline.http);
  await haltline.ask("olaf", "POST", "/v1/kill", { scope: { kind: "firm" }, reason: "test" });
  const page = await enter("olaf", { at: proxy.http });
  await expect(page.locator("#firm")).toHaveText("Firm halted");
  proxy.frozen = true;
  await old(page);
  await expect(page.locator("#firm")).toHaveText("Firm halted, last known");
  await proxy.stop();
});

test("a page that shows what is late says so", async ({ haltline, enter }) => {
  const proxy = await Proxy.before(haltline.http);
  const page = await enter("olaf", { at: proxy.http });
  proxy.madeAt = Date.now();
  await fresh(page).toHaveAttribute("data-fresh", "late");
  await expectNoGreen(page);
  await expect(page.locator(".banner")).toContainText("LATE");
  await proxy.stop();
});

test("an engine that stands still is not normal", async ({ haltline, enter }) => {
  const proxy = await Proxy.before(haltline.http);
  const page = await enter("olaf", { at: proxy.http });
  proxy.engineStands = true;
  await fresh(page).toHaveAttribute("data-fresh", "engine");
  await expectNoGreen(page);
  await expect(page.locator(".banner")).toContainText("THE ENGINE STANDS STILL");
  await expect(page.locator(".banner")).toContainText("9.0 s ago");
  proxy.engineStands = false;
  await live(page);
  await proxy.stop();
});

test("a kill works while the stream does not", async ({ haltline, enter }) => {
  const proxy = await Proxy.before(haltline.http);
  const page = await enter("olaf", { at: proxy.http });
  proxy.frozen = true;
  proxy.cut();
  await expect(page.locator(".banner")).toBeVisible();
  await page.keyboard.press("Alt+Shift+K");
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await dialog.getByRole("button", { name: "HALT FIRM" }).click();
  await expect(page.locator(".verdict")).toContainText("CONFIRMED");
  expect(await haltline.mode("firm", "")).toBe("halted");
  await proxy.stop();
});

test("a press whose answer is lost is sent again as the same press until there is one", async ({ haltline, enter }) => {
  const proxy = await Proxy.before(haltline.http);
  const page = await enter("olaf", { at: proxy.http });
  proxy.losesKills = true;
  await page.locator("#kill").click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await dialog.getByRole("button", { name: "HALT FIRM" }).click();
  await expect(page.locator(".verdict")).toContainText("NOT KNOWN whether it is halted");
  await expect(page.locator(".verdict")).toContainText("haltline kill");
  // Escape does not throw away what nobody knows.
  await page.keyboard.press("Escape");
  await expect(page.locator(".verdict")).toBeVisible();
  await until(async () => proxy.kills >= 2, "it is sent again");
  proxy.losesKills = false;
  await expect(page.locator(".verdict")).toContainText("CONFIRMED");
  const { body } = await haltline.ask("vera", "GET", "/v1/kills");
  expect(body.kills).toHaveLength(1);
  await proxy.stop();
});

test("haltline stopped, killed and started again: stale, disconnected, a new login", async ({ haltline, enter }) => {
  const page = await enter("olaf");
  haltline.signal("SIGSTOP");
  await old(page);
  await expectNoGreen(page);
  haltline.signal("SIGCONT");
  await live(page);
  haltline.signal("SIGKILL");
  await haltline.ended;
  await fresh(page).toHaveAttribute("data-fresh", "disconnected");
  await expect(page.locator(".banner")).toContainText("DISCONNECTED");
  await expectNoGreen(page);
  await haltline.run();
  // Logins are not kept over a restart.
  await expect(page.getByRole("alert").filter({ hasText: "The session is over" })).toBeVisible();
  await login(page, haltline.tokens.olaf.token);
  await expect(page.locator("#firm")).toHaveText("Firm normal");
});

test("no view has anything green while haltline stands still, and has again when it goes on", async ({
  haltline,
  enter,
}) => {
  const gateways = [await Gateway.connect(haltline, "gw-1"), await Gateway.connect(haltline, "gw-2")];
  for (const gateway of gateways) gateway.order("arb-01", { then: "fill" });
  const page = await enter("rita");
  const receipt = await kill(page, "mm-01", "so that there is a receipt");
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
  await page.keyboard.press("Escape");
  const views = await page.locator("#tabs a").allTextContents();
  expect(views.length).toBeGreaterThan(7);
  // While it is live there is some in the views that say that something is well: what is looked for is there to be found.
  for (const view of ["Overview", "Sessions", "Halts"]) {
    await goTo(page, view);
    await expect.poll(() => greens(page).then((list) => list.length)).toBeGreaterThan(1);
  }
  haltline.signal("SIGSTOP");
  await old(page);
  for (const view of await page.locator("#tabs a").all()) {
    await view.click();
    await expect(view).toHaveAttribute("aria-current", "page");
    expect(await greens(page), (await view.textContent()) ?? "").toEqual([]);
    // After some seconds it counts as disconnected.
    await expect(page.locator(".banner").first()).toContainText(/STALE|DISCONNECTED/);
  }
  haltline.signal("SIGCONT");
  await live(page);
  await goTo(page, "Overview");
  await expect.poll(() => greens(page).then((list) => list.length)).toBeGreaterThan(1);
});

test("a browser's windows leave connections for a kill", async ({ haltline, enter }) => {
  const page = await enter("olaf");
  const others = [];
  for (let i = 0; i < 5; i += 1) {
    const other = await page.context().newPage();
    await other.goto(haltline.http);
    others.push(other);
  }
  // Three windows follow the stream, the others say why they do not.
  const words = async () =>
    Promise.all([page, ...others].map((window) => window.locator("#app").getAttribute("data-fresh")));
  await expect.poll(async () => (await words()).filter((word) => word === "live").length).toBe(3);
  const last = others[4];
  await last.locator("#kill").click();
  const dialog = last.getByRole("dialog");
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await dialog.getByRole("button", { name: "HALT FIRM" }).click();
  await expect(last.locator(".verdict")).toContainText("CONFIRMED");
});

test("what is shown as of now is never older than two seconds", async ({ enter }) => {
  const page = await enter("vera");
  const words = await page.evaluate(async () => {
    const script = /** @type {HTMLScriptElement} */ (document.querySelector("script[type=module]")).src;
    const { Freshness } = await import(script.replace("app.js", "fresh.js"));
    const fresh = new Freshness();
    fresh.heard(5_000, 5e11);
    return [5_000, 7_000, 7_001, 99_000].map((now) => fresh.verdict(now).word);
  });
  expect(words).toEqual(["live", "live", "stale", "stale"]);
});

test("clocks that run apart are not called late, and news that is held up is", async ({ enter }) => {
  const page = await enter("vera");
  const words = await page.evaluate(async () => {
    const script = /** @type {HTMLScriptElement} */ (document.querySelector("script[type=module]")).src;
    const { Freshness } = await import(script.replace("app.js", "fresh.js"));
    const after = (/** @type {number} */ part, /** @type {number} */ heldUp) => {
      const fresh = new Freshness();
      // A day of news, one a second, from a clock that runs slower by this part; the last of it is held up.
      for (let s = 0; s < 86_400; s += 1) fresh.heard(s * 1_000, 5e11 + s * 1_000 * (1 - part));
      fresh.heard(86_400_000 + heldUp, 5e11 + 86_400_000 * (1 - part));
      return fresh.verdict(86_400_000 + heldUp).word;
    };
    return [after(0.0002, 0), after(-0.0002, 0), after(0.0002, 3_000), after(0, 3_000)];
  });
  expect(words).toEqual(["live", "live", "late", "late"]);
});

test("a kill whose login was over says that nothing was halted", async ({ haltline, enter }) => {
  const page = await enter("olaf");
  await page.locator("#kill").click();
  await page
    .getByRole("dialog")
    .getByRole("button", { name: /The whole firm/ })
    .click();
  // Nothing but the press is to find out.
  await page.route(/v1\/(stream|rearm|overrides|alerts|kill\/preview)/, (route) => route.abort());
  await page.context().clearCookies();
  await page.getByRole("dialog").getByRole("button", { name: "HALT FIRM" }).click();
  await expect(page.getByRole("alert").filter({ hasText: "NOTHING WAS HALTED" })).toBeVisible();
  expect(await haltline.mode("firm", "")).toBe("normal");
});
