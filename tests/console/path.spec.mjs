// The whole path: something runs away, somebody kills, flow reaches zero, and two people bring it back.

import { expect, find, kill, row, test, until } from "./support/console.mjs";
import { flow, Gateway, runAway } from "./support/gateway.mjs";
import { GATEWAYS, names } from "./support/haltline.mjs";

test("from an alert over the kill to flat, and back by two people", async ({ haltline, enter }) => {
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name)));
  const strategies = names(24);
  for (let i = 0; i < 214; i += 1) gateways[i % 3].order(strategies[(i * 7) % 12], { instrument: i, qty: 10 });

  const olaf = await enter("olaf");
  await expect(olaf.locator("#firm")).toHaveText("Firm normal");
  await expect(olaf.locator(".figures")).toContainText("214");
  const healthy = flow(gateways, strategies, 100);

  // One strategy asks for more orders than it may: it trips, and everybody sees it.
  await runAway(haltline, gateways[0], "vwap-02");
  await expect(row(olaf, "vwap-02").locator(".state")).toHaveText("halted");
  await expect(olaf.locator("#counts")).toContainText("1 halted");
  // That the firm itself is normal is no all-clear.
  await expect(olaf.locator("#firm")).toHaveAttribute("data-clear", "false");
  await expect(olaf.locator(".halt").filter({ hasText: "vwap-02" })).toContainText("order_rate");
  await expect(olaf.getByText("Newest alerts").locator("..").locator("..")).toContainText("order rate");
  // The worst is on top.
  await expect(olaf.locator(".rows .row[aria-rowindex='2']")).toContainText("vwap-02");

  // What worked of it is canceled.
  await until(
    async () => ![...gateways[0].working.values()].some((order) => order.strategy === "vwap-02"),
    "its orders are gone",
  );

  // Somebody looks at the alert, and says so.
  await olaf.getByRole("link", { name: /Alerts/ }).click();
  const alert = olaf.locator("tbody tr").filter({ hasText: "order rate" }).filter({ hasText: "vwap-02" }).first();
  await alert.getByRole("button", { name: /Acknowledge/ }).click();
  await olaf.getByLabel("What you do about it").fill("looking at it");
  await olaf.getByRole("dialog").getByRole("button", { name: "Acknowledge" }).click();
  await expect(olaf.locator("tbody tr").filter({ hasText: "looking at it" })).toContainText("acknowledged");
  await olaf.getByRole("link", { name: "Overview" }).click();

  // The operator decides for the firm: two clicks choose it, the consequences are there, one press.
  await olaf.locator("#kill").click();
  const dialog = olaf.getByRole("dialog", { name: "Kill" });
  await expect(dialog.getByRole("button", { name: "Choose a scope first" })).toBeDisabled();
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await expect(dialog.locator(".says")).toContainText(/Halts firm and cancels \d{3} working orders in 3 sessions\./);
  await dialog.getByLabel("Reason").fill("vwap runs away");
  await dialog.getByRole("button", { name: "HALT FIRM" }).click();
  const receipt = olaf.getByRole("dialog", { name: "Kill: firm" });
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED: firm is HALTED");
  await expect(receipt.locator(".steps")).toContainText("Page raised");
  await expect(receipt.locator(".steps")).toContainText("Sessions confirmed: 3 of 3 connected");
  await expect(receipt.locator(".steps")).toContainText("On disk");
  await expect(receipt.locator(".steps")).toContainText(/FLAT: none of \d{3} orders works any more/);
  await expect(receipt.locator(".verdict")).toContainText("Flat");
  await until(async () => gateways.every((gateway) => gateway.working.size === 0), "nothing works at the venue");
  expect(await haltline.mode("firm", "")).toBe("halted");
  await olaf.keyboard.press("Escape");
  await expect(olaf.locator("#firm")).toHaveText("Firm halted");
  await expect((await find(olaf, "strategy mm-01")).locator(".state")).toHaveText("halted above");
  await olaf.getByLabel("Find a scope by name").fill("");
  healthy.stop();

  // The operator cannot bring it back; the first person of risk asks, and cannot agree with herself.
  await expect(olaf.getByRole("button", { name: /Re-arm/ })).toHaveCount(0);
  const rita = await enter("rita");
  await rita.getByRole("link", { name: /Halts/ }).click();
  await rita.getByRole("button", { name: "Re-arm firm" }).click();
  const ask = rita.getByRole("dialog", { name: "Re-arm firm" });
  await expect(ask).toContainText("olaf");
  await expect(ask).toContainText("vwap runs away");
  await expect(ask).toContainText("Stays as it is: strategy vwap-02");
  await expect(ask.getByRole("button", { name: "Re-arm firm" })).toBeDisabled();
  await ask.getByLabel("I have read the causes").check();
  await expect(ask.getByRole("button", { name: "Re-arm firm" })).toBeDisabled();
  await ask.getByLabel("Reason").fill("vwap-02 is off, positions checked");
  await ask.getByRole("button", { name: "Re-arm firm" }).click();
  await expect(ask).toContainText("WAITS for a second person");
  await rita.keyboard.press("Escape");
  await expect(rita.getByText("You asked: somebody else has to agree.")).toBeVisible();
  await expect(rita.getByRole("button", { name: "Agree…" })).toHaveCount(0);
  expect(await haltline.mode("firm", "")).toBe("halted");
  const { body: pending } = await haltline.ask("rita", "GET", "/v1/rearm");
  const own = await haltline.ask("rita", "POST", `/v1/rearm/${pending.rearms[0].id}/approve`, { reason: "myself" });
  expect(own.status).toBe(403);

  // The second one sees that she is needed, wherever she looks.
  const ruth = await enter("ruth");
  const banner = ruth.locator(".banner").filter({ hasText: "rita asks to re-arm firm" });
  await banner.getByRole("button", { name: "Look at it" }).click();
  await ruth.getByRole("button", { name: "Agree…" }).click();
  const agree = ruth.getByRole("dialog", { name: "Second person: re-arm firm" });
  await expect(agree).toContainText("vwap-02 is off, positions checked");
  await agree.getByLabel("I have read the causes").check();
  await agree.getByLabel("Reason").fill("I checked it too");
  await agree.getByRole("button", { name: "Agree: re-arm firm" }).click();
  await expect(agree).toContainText("RE-ARMED");
  await ruth.keyboard.press("Escape");
  for (const page of [olaf, rita, ruth]) await expect(page.locator("#firm")).toHaveText("Firm normal");
  expect(await haltline.mode("firm", "")).toBe("normal");
  // What tripped by itself is still halted: it was not what they re-armed.
  expect(await haltline.mode("strategy", "vwap-02")).toBe("halted");

  // What happened is written down: who did what, and the reports.
  await rita.getByRole("link", { name: "Audit" }).click();
  for (const [who, did] of [
    ["olaf", "kill"],
    ["olaf", "ack"],
    ["rita", "rearm"],
    ["ruth", "approve"],
  ]) {
    await expect(rita.locator("tbody tr").filter({ hasText: who }).filter({ hasText: did }).first()).toBeVisible();
  }
  await expect(olaf.getByRole("link", { name: "Audit" })).toHaveCount(0);
  await rita.getByRole("link", { name: "Incidents" }).click();
  await rita.locator("tbody tr").filter({ hasText: "firm" }).getByRole("button", { name: "Report" }).first().click();
  await expect(rita.getByRole("dialog")).toContainText("vwap runs away");
  await rita.keyboard.press("Escape");

  // Flow again.
  const before = gateways[1].admitted;
  gateways[1].order(strategies[0], { then: "expire", qty: 1 });
  await until(async () => gateways[1].admitted > before, "orders are admitted again");
});

test("a halt that a gateway does not confirm is shown as loud as it is", async ({ haltline, enter }) => {
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name)));
  gateways[1].confirms = false;
  gateways[1].order("arb-01");
  await until(async () => gateways[1].working.size === 1, "an order works");
  const olaf = await enter("olaf");
  const receipt = await kill(olaf, "arb-01", "");
  await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "unconfirmed");
  await expect(receipt.locator(".verdict")).toContainText("UNCONFIRMED");
  await expect(receipt.locator(".verdict")).toContainText("gw-2");
  await expect(receipt.locator(".chip").filter({ hasText: "gw-2" })).toContainText("NOT CONFIRMED");
  // It fills in by itself when the gateway says so at last.
  gateways[1].send({ type: "mode_ack", page: gateways[1].page });
  await expect(receipt.locator(".verdict")).toHaveAttribute("data-status", "confirmed");
});

test("cancels that the venue never answers stay a named remainder", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.cancels = false;
  gateway.order("mm-01");
  await until(async () => gateway.working.size === 1, "an order works");
  const olaf = await enter("olaf");
  const receipt = await kill(olaf, "mm-01", "stuck");
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
  await expect(receipt.locator(".verdict")).toContainText("NOT FLAT YET: 1 order");
  await expect(receipt.locator(".steps")).toContainText("gw-1-1");
});

test("each role has the buttons that it can use, and no others", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.order("arb-01");
  await haltline.ask("olaf", "POST", "/v1/kill", { scope: { kind: "strategy", name: "mm-01" }, reason: "test" });
  const has = async (/** @type {string} */ who) => {
    const page = await enter(who);
    await expect(row(page, "mm-01").locator(".state")).toHaveText("halted");
    await expect(page.locator(".halt").filter({ hasText: "mm-01" })).toBeVisible();
    await page.keyboard.press("Alt+Shift+K");
    const opened = await page.getByRole("dialog").count();
    await page.keyboard.press("Escape");
    return {
      kill: await page.locator("#kill").isVisible(),
      shortcut: opened > 0,
      rearm: (await page.getByRole("button", { name: /Re-arm/ }).count()) > 0,
    };
  };
  expect(await has("vera")).toEqual({ kill: false, shortcut: false, rearm: false });
  expect(await has("olaf")).toEqual({ kill: true, shortcut: true, rearm: false });
  expect(await has("rita")).toEqual({ kill: true, shortcut: true, rearm: true });
});
