// What a kill will do, with the right numbers; and what is left of it, by name.

import { expect, kill, test, until } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";
import { GATEWAYS } from "./support/haltline.mjs";

/** @typedef {import("@playwright/test").Page} Page */

/** @param {import("./support/haltline.mjs").Haltline} haltline @param {number} orders that have to be seen */
const shown = (haltline, orders) =>
  until(async () => (await haltline.ask("vera", "GET", "/v1/state")).body.totals.working_orders === orders, "all work");

/** Chooses a scope in the kill dialog, without a press. @param {Page} page @param {string} scope */
async function choose(page, scope) {
  await page.locator("#kill").click();
  const dialog = page.getByRole("dialog", { name: "Kill" });
  if (scope === "firm") await dialog.getByRole("button", { name: /The whole firm/ }).click();
  else {
    await dialog.getByRole("combobox").fill(scope);
    await dialog.getByRole("option").first().click();
  }
  return dialog;
}

test("consequences are the true ones for every kind of scope, and the receipt accounts for each order", async ({
  haltline,
  enter,
}) => {
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name)));
  // 214 orders in three sessions: 100, 80 and 34; of arb-01 50 in two of them. More of one at once would be too many for its rate.
  for (const [gateway, strategy, orders] of /** @type {const} */ ([
    [0, "arb-01", 30],
    [0, "mm-01", 35],
    [0, "mm-02", 35],
    [1, "arb-01", 20],
    [1, "trend-01", 30],
    [1, "trend-02", 30],
    [2, "pairs-01", 34],
  ]))
    for (let i = 0; i < orders; i += 1) gateways[gateway].order(strategy, { qty: 10, instrument: gateway });
  await shown(haltline, 214);
  const page = await enter("olaf");
  for (const [scope, says] of [
    ["firm", "Halts firm and cancels 214 working orders in 3 sessions."],
    ["account EQ1", "Halts account EQ1 and cancels 149 working orders in 3 sessions."],
    ["session gw-2", "Halts session gw-2 and cancels 80 working orders in 1 session."],
    ["instrument NVDA", "Halts instrument NVDA and cancels 34 working orders in 1 session."],
    ["strategy pairs-01", "Halts strategy pairs-01 and cancels 34 working orders in 1 session."],
    ["strategy vwap-01", "Halts strategy vwap-01 and cancels 0 working orders in 0 sessions."],
  ]) {
    const dialog = await choose(page, scope);
    await expect(dialog.locator(".says")).toHaveText(says);
    await page.keyboard.press("Escape");
  }
  const dialog = await choose(page, "strategy arb-01");
  await expect(dialog.locator(".says")).toContainText("cancels 50 working orders in 2 sessions");
  // Reduce-only cancels nothing here, and says so.
  await dialog.getByLabel(/Reduce-only/).check();
  await expect(dialog.locator(".says")).toHaveText(
    "Lets strategy arb-01 only reduce. 50 working orders in 2 sessions stay working.",
  );
  await dialog.getByLabel(/^Halt/).check();
  // While the dialog is open ten more come: the next look has them.
  for (let i = 0; i < 10; i += 1) gateways[2].order("arb-01", { qty: 10, instrument: 3 });
  await expect(dialog.locator(".says")).toContainText("cancels 60 working orders in 3 sessions");
  await dialog.getByRole("button", { name: "HALT STRATEGY ARB-01" }).click();
  const receipt = page.getByRole("dialog", { name: "Kill: strategy arb-01" });
  await expect(receipt.locator(".steps")).toContainText("FLAT: none of 60 orders works any more");
  await expect(receipt.locator(".steps")).toContainText("60 canceled, 0 filled meanwhile");
  await page.keyboard.press("Escape");
  await shown(haltline, 164);
});

test("an instrument that nobody has traded can be halted before somebody does, and a name that there is not cannot", async ({
  haltline,
  enter,
}) => {
  const page = await enter("olaf");
  const dialog = await choose(page, "TSLAX");
  await expect(dialog.getByRole("alert")).toContainText("must be the name of one in the configuration");
  await page.keyboard.press("Escape");
  await choose(page, "TSLA");
  await expect(dialog.getByRole("option")).toContainText("not traded");
  await expect(dialog.getByRole("alert")).toHaveText("");
  await dialog.getByRole("button", { name: "HALT INSTRUMENT TSLA" }).click();
  await expect(page.locator(".verdict")).toContainText("CONFIRMED: instrument TSLA is HALTED");
  expect(await haltline.mode("instrument", "TSLA")).toBe("halted");
});

test("a session that is not there is named before the press, and its orders after it", async ({ haltline, enter }) => {
  const gateways = await Promise.all(GATEWAYS.slice(0, 2).map((name) => Gateway.connect(haltline, name)));
  gateways[0].order("arb-01");
  gateways[1].order("arb-01");
  await shown(haltline, 2);
  gateways[1].close();
  const page = await enter("olaf");
  await expect(page.locator(".figures")).toContainText("Sessions1 / 4");
  const dialog = await choose(page, "firm");
  await expect(dialog.locator(".consequences")).toContainText("NOT CONNECTED, so nobody can be told to cancel: gw-2.");
  await dialog.getByRole("button", { name: "HALT FIRM" }).click();
  const receipt = page.getByRole("dialog", { name: "Kill: firm" });
  await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "open");
  await expect(receipt.locator(".steps")).toContainText("1 ORDER LEFT that will not end by itself");
  await expect(receipt.locator(".steps")).toContainText("1 unknown: session gone");
  await expect(receipt.locator(".steps")).toContainText("gw-2 gw-2-1: unknown");
  // It comes back, is told at once, and then it is flat: in the receipt that is still open.
  const back = await Gateway.connect(haltline, "gw-2");
  back.working.set("gw-2-1", {});
  await expect(receipt.locator(".steps")).toContainText("FLAT: none of 2 orders works any more");
  await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "confirmed");
});

test.describe("a venue that refuses", () => {
  // Nobody is told again for being slow; what is refused is tried again.
  test.use({ more: '[cancel]\nrepeat_after = "60s"\nretry_after = "1s"\n' });

  test("what the venue refuses is the named remainder until it takes it, and no green before", async ({
    haltline,
    enter,
  }) => {
    const gateways = await Promise.all(GATEWAYS.slice(0, 2).map((name) => Gateway.connect(haltline, name)));
    gateways[0].refuses = true;
    for (let i = 0; i < 3; i += 1) gateways[0].order("arb-01", { qty: 10 });
    for (let i = 0; i < 5; i += 1) gateways[1].order("arb-01", { qty: 10 });
    await shown(haltline, 8);
    const page = await enter("olaf");
    const receipt = await kill(page, "arb-01", "the market is closed");
    await expect(receipt.locator(".verdict")).toContainText("CONFIRMED: strategy arb-01 is HALTED, NOT FLAT");
    await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "open");
    await expect(receipt.locator(".steps")).toContainText("3 ORDERS LEFT that will not end by themselves");
    await expect(receipt.locator(".steps")).toContainText("5 canceled");
    await expect(receipt.locator(".chip").filter({ hasText: "refused by the venue" })).toHaveText(
      "3 refused by the venue",
    );
    for (const id of ["gw-1-1", "gw-1-2", "gw-1-3"])
      await expect(receipt.locator(".steps")).toContainText(`gw-1 ${id}: refused`);
    gateways[0].refuses = false;
    await expect(receipt.locator(".steps")).toContainText("FLAT: none of 8 orders works any more");
    await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "confirmed");
  });
});

test.describe("where nothing is canceled", () => {
  test.use({ more: "[cancel]\nafter_halt = false\n" });

  test("a kill that cancels nothing does not say that it does", async ({ haltline, enter }) => {
    const gateway = await Gateway.connect(haltline, "gw-1");
    for (let i = 0; i < 4; i += 1) gateway.order("arb-01", { qty: 10 });
    await shown(haltline, 4);
    const page = await enter("olaf");
    const dialog = await choose(page, "firm");
    await expect(dialog.locator(".says")).toHaveText("Halts firm. 4 working orders in 1 session stay working.");
    await dialog.getByRole("button", { name: "HALT FIRM" }).click();
    const receipt = page.getByRole("dialog", { name: "Kill: firm" });
    await expect(receipt.locator(".verdict")).toContainText("4 orders worked when it was pressed and may still fill");
    await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "open");
    await expect(receipt.locator(".steps")).toContainText("cancel them at the venue");
    expect(gateway.working.size).toBe(4);
  });
});
