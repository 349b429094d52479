// What was written down: alerts that wait for somebody, incidents, and who did what.

import { banner, expect, goTo, kill, row, test, until } from "./support/console.mjs";
import { Gateway, runAway } from "./support/gateway.mjs";

/** Has a strategy trip. @param {import("./support/haltline.mjs").Haltline} haltline */
async function trip(haltline) {
  const gateway = await Gateway.connect(haltline, "gw-1");
  await runAway(haltline, gateway, "vwap-02");
}

test("a critical alert is in every view until somebody answers it, and then names who", async ({ haltline, enter }) => {
  const [vera, olaf] = [await enter("vera"), await enter("olaf")];
  await trip(haltline);
  for (const page of [vera, olaf]) {
    await expect(banner(page, /critical alerts? unanswered/)).toContainText("vwap-02");
    await expect(page.locator("#tabs a").filter({ hasText: "Alerts" }).locator(".n")).toHaveAttribute(
      "data-level",
      "danger",
    );
  }
  await expect(olaf.locator(".alert-line").filter({ hasText: "vwap-02" }).first()).toContainText("unanswered");
  await goTo(vera, "Alerts");
  await expect(vera.getByRole("button", { name: /Acknowledge/ })).toHaveCount(0);
  await banner(olaf, "critical").getByRole("button", { name: "Look" }).click();
  // As many as there are, those that come meanwhile included, each once: the list has to know of those that were answered.
  const next = olaf.getByRole("button", { name: /^Acknowledge / });
  const seen = olaf.locator("tbody tr").filter({ hasText: "olaf: “on it”" });
  await expect(next.first()).toBeVisible();
  await until(async () => {
    const { body } = await haltline.ask("vera", "GET", "/v1/alerts");
    const answered = body.alerts.filter((/** @type {any} */ alert) => alert.acknowledged).length;
    if ((await seen.count()) !== answered) return false;
    if ((await next.count()) === 0) return (await banner(olaf, "critical").count()) === 0;
    await next.first().click();
    await olaf.getByLabel("What you do about it").fill("on it");
    await olaf.getByRole("dialog").getByRole("button", { name: "Acknowledge" }).click();
    await expect(olaf.getByRole("dialog")).toHaveCount(0);
    return false;
  }, "all of them are answered");
  for (const page of [vera, olaf]) await expect(banner(page, "critical")).toHaveCount(0);
  await expect(vera.locator("tbody tr").filter({ hasText: "vwap-02" }).first()).toContainText("olaf: “on it”");
});

test("an incident's report tells what happened when, and has all of it", async ({ haltline, enter }) => {
  const page = await enter("vera");
  await trip(haltline);
  await goTo(page, "Incidents");
  const one = page.locator("tbody tr").filter({ hasText: "strategy vwap-02" });
  await expect(one).toHaveCount(1);
  await expect(one).toContainText("trip");
  await expect(one).toContainText("order rate: 61 of 60 at strategy vwap-02");
  await one.getByRole("button", { name: "Report" }).click();
  const report = page.getByRole("dialog");
  await expect(report.getByRole("region", { name: "Timeline" }).locator("tbody tr").first()).toBeVisible();
  await expect(report.locator("pre")).toContainText('"vwap-02"');
  await page.keyboard.press("Escape");
  await expect(one.getByRole("button", { name: "Report" })).toBeFocused();
});

test("the audit has who did what, and what was refused, and can be asked for it", async ({ haltline, enter }) => {
  const [olaf, rita] = [await enter("olaf"), await enter("rita")];
  const receipt = await kill(olaf, "mm-01", "odd prices");
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
  await haltline.ask("olaf", "POST", "/v1/rearm", {
    scope: { kind: "strategy", name: "mm-01" },
    epoch: 1,
    reason: "me",
  });
  await goTo(rita, "Audit");
  const rows = rita.locator("tbody tr");
  const did = rows.filter({ hasText: "kill" }).filter({ hasText: "olaf" });
  await expect(did).toContainText("strategy mm-01");
  await expect(did).toContainText("odd prices");
  await expect(did).toContainText("127.0.0.1");
  const not = rows.filter({ hasText: "rearm" }).filter({ hasText: "olaf" });
  await expect(not.locator(".chip")).toHaveAttribute("data-level", "warn");
  await expect(not.locator(".chip")).toContainText("refused");
  // Of many, those that are looked for.
  await rita.getByLabel("Only what was refused").check();
  await expect(did).toHaveCount(0);
  await expect(not).toHaveCount(1);
  await rita.getByLabel("Only what was refused").uncheck();
  await rita.getByLabel("Who").fill("rita");
  await expect(did).toHaveCount(0);
  await rita.getByLabel("Who").fill("");
  await expect(did).toHaveCount(1);
  // It is asked for again while it is seen: what is done now appears.
  await haltline.ask("olaf", "POST", "/v1/kill", { scope: { kind: "strategy", name: "arb-02" }, reason: "and this" });
  await expect(rows.filter({ hasText: "and this" })).toHaveCount(1);
});

test("a second halt of what is halted already is another cause, and both are told", async ({ haltline, enter }) => {
  const page = await enter("rita");
  await trip(haltline);
  await haltline.ask("olaf", "POST", "/v1/kill", { scope: { kind: "strategy", name: "vwap-02" }, reason: "me, too" });
  await expect(row(page, "vwap-02").locator(".state")).toHaveText("halted");
  const halt = page.locator(".halt").filter({ hasText: "vwap-02" });
  await expect(halt.locator(".cause")).toHaveCount(2);
  await expect(halt).toContainText("me, too");
});
