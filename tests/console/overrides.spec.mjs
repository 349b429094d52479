// Limits that are others than configured for a while: made by people, seen everywhere, over by themselves. And probation.

import { banner, expect, find, goTo, rearm, row, test, until } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";
import { Haltline } from "./support/haltline.mjs";

/** @typedef {import("@playwright/test").Page} Page */

const ARB = { kind: "strategy", name: "arb-01" };

/** Opens the dialog that overrides a limit. @param {Page} page @param {string} limit @param {string} scope */
async function openOverride(page, limit, scope) {
  await goTo(page, "Limits");
  await page.getByLabel("Find by scope or limit").fill(`${scope} ${limit}`);
  await page.getByRole("button", { name: `Override ${limit} of ${scope}` }).click();
  return page.getByRole("dialog", { name: "Override a limit" });
}

/** What becomes of one order of arb-01. @param {Gateway} gateway @param {number} qty */
async function order(gateway, qty) {
  const [admitted, denied] = [gateway.admitted, gateway.denied];
  gateway.order("arb-01", { qty, then: "expire" });
  await until(async () => gateway.admitted + gateway.denied > admitted + denied, "the order is judged");
  return gateway.admitted > admitted ? "admitted" : "denied";
}

test("a limit is lowered for a while by one person, and only two bring it back", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  const [olaf, rita, ruth] = [await enter("olaf"), await enter("rita"), await enter("ruth")];
  expect(await order(gateway, 200)).toBe("admitted");

  const dialog = await openOverride(rita, "order qty", "strategy arb-01");
  await expect(dialog).toContainText("limit 5,000");
  const ask = dialog.getByRole("button", { name: "Ask for it" });
  await expect(ask).toBeDisabled();
  await dialog.getByLabel("Limit for a while").fill("5000");
  await expect(dialog.getByRole("status")).toHaveText("That is the limit now.");
  await dialog.getByLabel("Reason").fill("a new book");
  await expect(ask).toBeDisabled();
  await dialog.getByLabel("Limit for a while").fill("ten");
  await expect(dialog.getByRole("alert")).toContainText("limit");
  await expect(ask).toBeDisabled();
  await dialog.getByLabel("Limit for a while").fill("100");
  await expect(dialog.getByRole("status")).toContainText("Lowers 5000 to 100.");
  await ask.click();
  await expect(dialog).toContainText("IN FORCE");
  await rita.keyboard.press("Escape");
  expect(await order(gateway, 200)).toBe("denied");

  // Everybody sees it, wherever they look.
  for (const page of [olaf, rita, ruth]) {
    await expect(banner(page, "1 override in force")).toContainText(
      "order qty of strategy arb-01: 100 instead of 5,000",
    );
    await expect(banner(page, "1 override in force")).toContainText("left");
  }
  await expect((await find(olaf, "arb-01")).locator(".named .chip")).toHaveText("override");
  await goTo(olaf, "Limits");
  await olaf.getByLabel("Find by scope or limit").fill("strategy arb-01 order qty");
  await expect(olaf.locator("tbody tr")).toContainText("override by rita: 5,000 configured");
  await expect(olaf.getByRole("button", { name: /Override/ })).toHaveCount(0);
  await banner(olaf, "1 override in force").getByRole("button", { name: "Look" }).click();
  const here = olaf.getByRole("region", { name: "Overrides" }).locator("tbody tr");
  await expect(here).toContainText("“a new book”");
  await expect(here.locator(".left")).toContainText(/\d/);
  await expect(olaf.getByRole("button", { name: /Take back|Agree/ })).toHaveCount(0);

  // Taking a cut back is a raise, which two people guard at a strategy.
  await goTo(rita, "Overrides");
  await rita.getByRole("button", { name: "Take back…" }).click();
  const back = rita.getByRole("dialog", { name: "Take an override back" });
  await back.getByRole("button", { name: "Take an override back" }).click();
  await expect(back.getByRole("alert")).toContainText("reason");
  await back.getByLabel("Reason").fill("the book is known");
  await back.getByRole("button", { name: "Take an override back" }).click();
  await expect(rita.getByText("You asked: somebody else has to agree.")).toBeVisible();
  expect(await order(gateway, 200)).toBe("denied");
  await banner(ruth, "rita asks to take an override back").getByRole("button", { name: "Look at it" }).click();
  await ruth.getByRole("button", { name: "Agree…" }).click();
  const agree = ruth.getByRole("dialog", { name: "Second person: agree" });
  await agree.getByLabel("Reason").fill("so it is");
  await agree.getByRole("button", { name: "Second person: agree" }).click();
  for (const page of [olaf, rita, ruth]) await expect(page.locator(".banner")).toHaveCount(0);
  await until(async () => (await order(gateway, 200)) === "admitted", "the limit is as configured");
});

test("a limit is raised by two people, and what somebody else changed meanwhile is not overwritten", async ({
  haltline,
  enter,
}) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  const [rita, ruth] = [await enter("rita"), await enter("ruth")];
  const dialog = await openOverride(rita, "order qty", "strategy arb-01");
  await dialog.getByLabel("Limit for a while").fill("6000");
  await expect(dialog.getByRole("status")).toContainText("Raises 5000 to 6000.");
  await dialog.getByLabel("Reason").fill("a block");
  // In between another limit is changed: what rita looks at is not what is in force.
  const cut = { scope: ARB, rule: "working_orders", limit: 7, for_seconds: 600, reason: "ruth was here" };
  expect((await haltline.ask("ruth", "POST", "/v1/overrides", cut)).status).toBe(201);
  await dialog.getByRole("button", { name: "Ask for it" }).click();
  await expect(dialog.getByRole("alert")).toContainText("Limits changed");
  expect((await haltline.ask("vera", "GET", "/v1/overrides")).body.overrides).toHaveLength(1);
  // Having looked again she may.
  await dialog.getByRole("button", { name: "Ask for it" }).click();
  await expect(dialog).toContainText("WAITS for a second person");
  await rita.keyboard.press("Escape");
  expect(await order(gateway, 6_000)).toBe("denied");
  const asks = banner(ruth, "rita asks to override a limit of strategy arb-01");
  await expect(asks).toContainText("order qty of strategy arb-01: 6,000 instead of 5,000");
  await expect(banner(rita, "rita asks")).toHaveCount(0);
  await asks.getByRole("button", { name: "Look at it" }).click();
  await ruth.getByRole("button", { name: "Agree…" }).click();
  const agree = ruth.getByRole("dialog", { name: "Second person: agree" });
  await expect(agree).toContainText("a block");
  await agree.getByLabel("Reason").fill("I know of it");
  await agree.getByRole("button", { name: "Second person: agree" }).click();
  await expect(banner(rita, "2 overrides in force")).toBeVisible();
  await until(async () => (await order(gateway, 6_000)) === "admitted", "the limit is higher");
});

test("an override ends by itself, and nobody has to look for it", async ({ haltline, enter }) => {
  const page = await enter("olaf");
  const list = page.getByRole("region", { name: "Overrides" }).locator("tbody tr");
  // Long enough to be looked at before it ends.
  for (let seconds = 3; ; seconds *= 3) {
    await goTo(page, "Overview");
    const short = { scope: ARB, rule: "order_qty", limit: 100, for_seconds: seconds, reason: "for a moment" };
    expect((await haltline.ask("rita", "POST", "/v1/overrides", short)).status).toBe(201);
    const seen = async () => {
      const timeout = seconds * 1_000;
      await expect(banner(page, "1 override in force")).toBeVisible({ timeout });
      const tab = page.locator("#tabs a").filter({ hasText: "Overrides" });
      await expect(tab.locator(".n")).toHaveText("1", { timeout });
      await goTo(page, "Overrides");
      await expect(list.first().locator(".chip")).toHaveText("active", { timeout });
    };
    const missed = await seen().then(
      () => null,
      (error) => error,
    );
    if (missed === null) break;
    const { body } = await haltline.ask("vera", "GET", "/v1/overrides");
    const over = body.overrides.every((/** @type {any} */ one) => one.status !== "active");
    if (!over || seconds > 1_000) throw missed;
  }
  await expect(banner(page, "override")).toHaveCount(0, { timeout: 600_000 });
  await expect(list.first().locator(".chip")).toHaveText("ended");
  await expect(list.first().locator(".left")).toHaveText("expired");
  await expect(page.locator("#tabs a").filter({ hasText: "Overrides" }).locator(".n")).toBeHidden();
});

test.describe("on probation", () => {
  test.use({ more: '[rearm]\nprobation = { fraction = "25%", for = "1h" }' });

  test("after a re-arm a scope has a part of its limits, until somebody with the right ends that", async ({
    haltline,
    enter,
  }) => {
    const gateway = await Gateway.connect(haltline, "gw-1");
    const [olaf, rita] = [await enter("olaf"), await enter("rita")];
    await haltline.ask("olaf", "POST", "/v1/kill", { scope: ARB, reason: "odd fills" });
    await expect((await find(olaf, "arb-01")).locator(".state")).toHaveText("halted");
    await rearm(haltline, ARB);
    await expect(banner(olaf, "1 scope on probation")).toContainText("strategy arb-01 has 25 % of its limits");
    await expect(row(olaf, "arb-01").locator(".named .chip")).toHaveText("probation 25 %");
    await expect(row(olaf, "arb-01").locator(".state")).toHaveText("normal");
    expect(await order(gateway, 1_251)).toBe("denied");
    expect(await order(gateway, 1_250)).toBe("admitted");
    await banner(olaf, "on probation").getByRole("button", { name: "Look" }).click();
    const there = olaf.getByRole("region", { name: "Probation" }).locator("tbody tr");
    await expect(there).toContainText("25 %");
    await expect(there).toContainText("of 60 min");
    await expect(olaf.getByRole("button", { name: /End the probation/ })).toHaveCount(0);

    await goTo(rita, "Overrides");
    await rita.getByRole("button", { name: "End the probation of strategy arb-01" }).click();
    const dialog = rita.getByRole("dialog", { name: "End the probation of strategy arb-01" });
    await expect(dialog).toContainText("From 25 % of its limits to all of them");
    await dialog.getByLabel("Reason").fill("fills were right");
    await dialog.getByRole("button", { name: "End the probation of strategy arb-01" }).click();
    for (const page of [olaf, rita]) await expect(banner(page, "probation")).toHaveCount(0);
    await until(async () => (await order(gateway, 1_251)) === "admitted", "it has its limits again");
  });
});

test("probation ends by itself when the scope was clean", async ({ enter }) => {
  /** Whether there was time to look at it before it ended. @param {number} seconds */
  const attempt = async (seconds) => {
    const haltline = await Haltline.start({ more: `[rearm]\nprobation = { fraction = "50%", for = "${seconds}s" }` });
    try {
      const page = await enter("vera", { of: haltline });
      await haltline.ask("olaf", "POST", "/v1/kill", { scope: ARB, reason: "odd fills" });
      await rearm(haltline, ARB);
      const shown = expect(banner(page, "1 scope on probation")).toBeVisible({ timeout: seconds * 1_000 });
      const seen = await shown.then(
        () => true,
        () => false,
      );
      if (seen) {
        await expect(banner(page, "probation")).toHaveCount(0, { timeout: 600_000 });
        await expect((await find(page, "arb-01")).locator(".named .chip")).toBeHidden();
      }
      await page.close();
      return seen;
    } finally {
      await haltline.stop();
    }
  };
  let seconds = 3;
  while (!(await attempt(seconds))) {
    seconds *= 3;
    expect(seconds, "it is never shown").toBeLessThan(200);
  }
});
