// Contrast, labels and structure by axe, in both schemes; and the width of a phone.

import AxeBuilder from "@axe-core/playwright";
import { expect, goTo, kill, old, rearm, row, test, until } from "./support/console.mjs";
import { Gateway, runAway } from "./support/gateway.mjs";
import { GATEWAYS, names } from "./support/haltline.mjs";

/** @param {import("@playwright/test").Page} page @param {string} where */
async function check(page, where) {
  const { violations } = await new AxeBuilder({ page })
    .withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"])
    .analyze();
  const told = violations.map(
    (violation) =>
      `${where}: ${violation.id}: ${violation.nodes
        .map((node) => `${node.target} ${node.failureSummary}`)
        .slice(0, 4)
        .join(" | ")}`,
  );
  expect.soft(told).toEqual([]);
}

/** Nothing is wider than the page. @param {import("@playwright/test").Page} page @param {string} where */
async function expectNoSidewaysScroll(page, where) {
  const over = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > width + 1 && !element.closest(".table-wrap, .tabs"))
      .map((element) => `${element.tagName}.${element.className} ${element.textContent?.slice(0, 60)}`);
  });
  expect.soft(over, where).toEqual([]);
}

/** The red button is on the page, whole. @param {import("@playwright/test").Page} page @param {string} where */
async function expectKillInView(page, where) {
  await expect.soft(page.locator("#kill"), where).toBeInViewport({ ratio: 1 });
}

test.use({
  more: `
[guard.attestation]
[drill]
session = "drill"
strategy = "drill"
instrument = "AAPL"
[strategies.drill]
account = "EQ1"
[sessions.drill]
kind = "ask"
strategies = ["drill"]
[rearm]
probation = { fraction = "25%", for = "1h" }
`,
});

/** Some of everything: flow, a trip, a kill, overrides that are in force and that wait, a drill, a build that is quarantined. @param {import("./support/haltline.mjs").Haltline} haltline */
async function busy(haltline) {
  const gateways = await Promise.all(
    GATEWAYS.map((name) => Gateway.connect(haltline, name, { build: "router 2.4.1", host: "tor-7" })),
  );
  const strategies = names(24);
  for (let i = 0; i < 90; i += 1) gateways[i % 3].order(strategies[i % 9], { instrument: i, qty: 60, then: "fill" });
  await runAway(haltline, gateways[0], "vwap-02");
  await haltline.ask("olaf", "POST", "/v1/kill", {
    scope: { kind: "strategy", name: "mm-03" },
    mode: "reduce_only",
    reason: "test",
  });
  await haltline.ask("rita", "POST", "/v1/drills", { reason: "test" });
  await haltline.ask("olaf", "POST", "/v1/kill", { scope: { kind: "strategy", name: "arb-02" }, reason: "test" });
  await rearm(haltline, { kind: "strategy", name: "arb-02" });
  const of = (/** @type {string} */ name) => ({
    scope: { kind: "strategy", name },
    rule: "order_qty",
    for_seconds: 600,
  });
  await haltline.ask("rita", "POST", "/v1/overrides", { ...of("arb-01"), limit: 100, reason: "test" });
  const { body } = await haltline.ask("vera", "GET", "/v1/overrides");
  const raise = { ...of("arb-03"), limit: 6_000, reason: "test", etag: body.etag };
  expect((await haltline.ask("ruth", "POST", "/v1/overrides", raise)).body.status).toBe("pending");
  await haltline.ask("rita", "POST", "/v1/rearm", {
    scope: { kind: "strategy", name: "mm-03" },
    epoch: (await haltline.ask("rita", "GET", "/v1/state")).body.halts.find(
      (/** @type {any} */ halt) => halt.scope.name === "mm-03",
    ).epoch,
    reason: "test",
  });
  // What it runs is another thing than before, and something is halted.
  gateways[2].close();
  await until(async () => {
    const { body } = await haltline.ask("vera", "GET", "/v1/sessions");
    return body.sessions.some((/** @type {any} */ one) => one.name === "gw-3" && !one.connected);
  }, "it has gone");
  await Gateway.connect(haltline, "gw-3", { build: "router 2.4.0", host: "tor-7" });
}

for (const colorScheme of /** @type {const} */ (["dark", "light"])) {
  for (const [size, viewport] of /** @type {const} */ ([
    ["wide", { width: 1440, height: 900 }],
    ["phone", { width: 390, height: 844 }],
  ])) {
    test(`every view is readable and labelled, ${colorScheme}, ${size}`, async ({ haltline, enter }) => {
      await busy(haltline);
      const page = await enter("", { colorScheme, viewport });
      await check(page, "login");
      await expectNoSidewaysScroll(page, "login");
      await page.getByLabel("Token").fill(haltline.tokens.rita.token);
      await page.keyboard.press("Enter");
      await expect(row(page, "vwap-02").locator(".state")).toHaveText("halted");
      for (const view of await page.locator("#tabs a").all()) {
        await view.click();
        const name = (await view.textContent()) ?? "";
        await expect(view).toHaveAttribute("aria-current", "page");
        await check(page, name);
        await expectNoSidewaysScroll(page, name);
        await expectKillInView(page, name);
      }
      await goTo(page, "Sessions");
      await page.getByRole("button", { name: "Approve the build of gw-3" }).click();
      await check(page, "approve a build");
      await page.keyboard.press("Escape");
      await goTo(page, "Limits");
      await page.getByLabel("Find by scope or limit").fill("strategy arb-01 order qty");
      await expect(page.locator("tbody tr")).toHaveCount(1);
      await check(page, "limit with an override");
      await page.getByRole("button", { name: /^Override/ }).click();
      await check(page, "override");
      await page.keyboard.press("Escape");
      await goTo(page, "Drills");
      await page.getByRole("button", { name: "Drill…" }).click();
      await check(page, "drill");
      await page.keyboard.press("Escape");
      await goTo(page, "Incidents");
      await page.getByRole("button", { name: "Report" }).first().click();
      await expect(page.getByRole("dialog").locator("pre")).toBeVisible();
      await check(page, "report");
      await page.keyboard.press("Escape");
      await goTo(page, "Overview");
      await row(page, "vwap-02").getByRole("button", { name: "strategy vwap-02", exact: true }).click();
      await expect(page.getByRole("dialog", { name: "strategy vwap-02" }).locator("tbody tr").first()).toBeVisible();
      await check(page, "scope");
      await page.keyboard.press("Escape");
      await row(page, "vwap-02").getByRole("button", { name: "Re-arm strategy vwap-02" }).click();
      await check(page, "re-arm");
      await page.keyboard.press("Escape");
      await page.locator("#kill").click();
      await check(page, "kill");
      await page
        .getByRole("dialog")
        .getByRole("button", { name: /The whole firm/ })
        .click();
      await check(page, "kill, chosen");
      await page.keyboard.press("Escape");
      const receipt = await kill(page, "arb-01", "axe looks at it");
      await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
      await check(page, "receipt");
      await expectNoSidewaysScroll(page, "receipt");
      await page.keyboard.press("Escape");
      // Between a phone and a wide screen, and while it is stale with all its words: it stays. Last, since a haltline that
      // stood still for long lets its sessions go.
      haltline.signal("SIGSTOP");
      await old(page);
      for (const width of [1280, 1024, 800, 390]) {
        await page.setViewportSize({ width, height: 800 });
        await expectNoSidewaysScroll(page, `stale at ${width}`);
        await expectKillInView(page, `stale at ${width}`);
      }
      haltline.signal("SIGCONT");
    });
  }
}
