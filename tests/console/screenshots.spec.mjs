// The pictures in the README, made anew by `SCREENSHOTS=1 npx playwright test screenshots`; `pngquant` makes them small.

import { execFileSync } from "node:child_process";
import { expect, kill, row, test, until } from "./support/console.mjs";
import { flow, Gateway } from "./support/gateway.mjs";
import { GATEWAYS, names } from "./support/haltline.mjs";

const STRATEGIES = 400;

test.use({ strategies: STRATEGIES, viewport: { width: 1280, height: 800 } });
test.skip(!process.env.SCREENSHOTS, "only when they are to be made anew");

/** @param {import("@playwright/test").Page} page @param {string} name */
async function shot(page, name) {
  const path = `screenshots/${name}.png`;
  await page.mouse.move(0, 0);
  await page.screenshot({ path });
  execFileSync("pngquant", ["--force", "--strip", "--skip-if-larger", "--output", path, "64", path]);
}

test("pictures", async ({ haltline, enter }) => {
  test.setTimeout(300_000);
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name)));
  gateways.push(await Gateway.connect(haltline, "prices"));
  const strategies = names(STRATEGIES);
  const used = [1.2, 0.7, 0.5, 0.4, 0.9, 0.8, 0.3, 0.25];
  // Positions of a morning: one is over its limit's warning, some are well used.
  strategies.slice(0, 120).forEach((strategy, i) => {
    const qty = Math.round((used[i % used.length] * (i < 8 ? 6_600 : 1_500)) / 2);
    if (i !== 0) gateways[i % 3].order(strategy, { instrument: i, qty: Math.min(qty, 3_000), then: "fill" });
  });
  gateways[0].order(strategies[12], { instrument: 5, qty: 4_300, then: "fill" });
  for (let i = 0; i < 214; i += 1) gateways[i % 3].order(strategies[(i * 7) % 60], { instrument: i, qty: 10 });
  const load = flow(gateways.slice(0, 3), strategies, 250);
  const dark = await enter("rita");
  const light = await enter("rita", { colorScheme: "light" });
  await expect(dark.locator(".figures")).toContainText("214");
  for (let i = 0; i < 80; i += 1) gateways[0].order("vwap-007", { then: "expire", qty: 1 });
  await expect(row(dark, "vwap-007").locator(".state")).toHaveText("halted");
  await haltline.ask("rita", "POST", "/v1/kill", {
    scope: { kind: "strategy", name: "mm-011" },
    mode: "reduce_only",
    reason: "position too large for the close",
  });
  await expect(row(dark, "mm-011").locator(".state")).toHaveText("reduce-only");
  // A plot of half a minute says more than one of a second.
  await until(async () => load.sent() > 250 * 40, "there is some history", 60_000);
  await shot(dark, "overview-dark");
  await shot(light, "overview-light");

  const phone = await enter("olaf", { viewport: { width: 390, height: 844 } });
  await expect(row(phone, "vwap-007").locator(".state")).toHaveText("halted");
  await shot(phone, "phone");

  await dark.locator("#kill").click();
  const dialog = dark.getByRole("dialog", { name: "Kill" });
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await expect(dialog.locator(".says")).toContainText(/in 3 sessions/);
  await dialog.getByLabel("Reason").fill("vwap runs away, cause not known");
  await shot(dark, "kill");
  await dark.keyboard.press("Escape");

  gateways[1].cancels = false;
  const receipt = await kill(dark, "firm", "vwap runs away, cause not known");
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
  await shot(dark, "receipt");
  load.stop();

  haltline.signal("SIGSTOP");
  await expect(light.locator("#app")).toHaveAttribute("data-fresh", "stale");
  await shot(light, "stale");
  haltline.signal("SIGCONT");
});
