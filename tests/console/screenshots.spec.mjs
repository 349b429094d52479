// The pictures in the README, made anew by `SCREENSHOTS=1 npx playwright test screenshots`; `pngquant` makes them small.

import { execFileSync } from "node:child_process";
import { banner, expect, goTo, kill, rearm, row, test, until } from "./support/console.mjs";
import { flow, Gateway } from "./support/gateway.mjs";
import { GATEWAYS, names } from "./support/haltline.mjs";

const STRATEGIES = 400;

test.use({
  strategies: STRATEGIES,
  viewport: { width: 1280, height: 800 },
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
[cancel]
attempts = 2
`,
});
test.skip(!process.env.SCREENSHOTS, "only when they are to be made anew");

/** @param {import("@playwright/test").Page} page @param {string} name */
async function shot(page, name) {
  const path = `screenshots/${name}.png`;
  await page.mouse.move(0, 0);
  await page.screenshot({ path });
  execFileSync("pngquant", ["--force", "--strip", "--skip-if-larger", "--output", path, "64", path]);
}

test("pictures", async ({ haltline, enter }) => {
  test.setTimeout(400_000);
  const claim = { build: "router 2.4.1", flags: { rlp: "on" }, host: "tor-7" };
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name, claim)));
  gateways.push(await Gateway.connect(haltline, "prices"));
  const strategies = names(STRATEGIES);
  const of = (/** @type {string} */ name) => ({ kind: "strategy", name });

  await haltline.ask("rita", "POST", "/v1/drills", { reason: "before the open" });
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
  // A plot of half a minute says more than one of a second.
  await until(async () => load.sent() > 250 * 40, "there is some history", 60_000);

  // Something runs away, and something is too large for the close.
  for (let i = 0; i < 80; i += 1) gateways[0].order("vwap-007", { then: "expire", qty: 1 });
  await expect(row(dark, "vwap-007").locator(".state")).toHaveText("halted");
  await haltline.ask("rita", "POST", "/v1/kill", {
    scope: of("mm-011"),
    mode: "reduce_only",
    reason: "position too large for the close",
  });
  await expect(row(dark, "mm-011").locator(".state")).toHaveText("reduce-only");
  await shot(dark, "overview-dark");
  await shot(light, "overview-light");
  await dark.getByRole("button", { name: "Strategies" }).click();
  await dark.getByLabel("Find a scope by name").fill("mm");
  await shot(dark, "strategies");
  await row(dark, "mm-011").getByRole("button", { name: "strategy mm-011", exact: true }).click();
  await expect(dark.getByRole("dialog").locator("tbody tr").first()).toBeVisible();
  await shot(dark, "scope");
  await dark.keyboard.press("Escape");
  await dark.getByRole("button", { name: "All", exact: true }).click();
  await dark.getByLabel("Find a scope by name").fill("");

  const phone = await enter("olaf", { viewport: { width: 390, height: 844 } });
  await expect(row(phone, "vwap-007").locator(".state")).toHaveText("halted");
  await shot(phone, "phone");

  await goTo(dark, "Alerts");
  await expect(dark.locator("tbody tr").first()).toBeVisible();
  await shot(dark, "alerts");
  await goTo(dark, "Overview");

  // The kill: what it will do, the receipt with a venue that does not answer for a moment, and when it is flat.
  await dark.locator("#kill").click();
  const dialog = dark.getByRole("dialog", { name: "Kill" });
  await dialog.getByRole("button", { name: /The whole firm/ }).click();
  await expect(dialog.locator(".says")).toContainText(/in 3 sessions/);
  await dialog.getByLabel("Reason").fill("vwap runs away, cause not known");
  await shot(dark, "kill");
  await dark.keyboard.press("Escape");
  await phone.locator("#kill").click();
  await phone.getByRole("button", { name: /The whole firm/ }).click();
  await expect(phone.locator(".says")).toContainText(/in 3 sessions/);
  await shot(phone, "phone-kill");
  await phone.keyboard.press("Escape");

  gateways[1].cancels = false;
  const receipt = await kill(dark, "firm", "vwap runs away, cause not known");
  await expect(receipt.locator(".verdict")).toContainText("NOT FLAT");
  await expect(receipt.locator(".steps")).toContainText("ORDERS LEFT");
  await shot(dark, "receipt");
  gateways[1].cancels = true;
  for (const id of [...gateways[1].working.keys()]) gateways[1].cancel(id);
  await expect(receipt.locator(".steps")).toContainText("FLAT: none of");
  await shot(dark, "receipt-flat");
  await dark.keyboard.press("Escape");
  load.stop();

  // In the middle of it a gateway comes back with another build.
  gateways[2].close();
  await goTo(dark, "Sessions");
  const third = dark.getByRole("region", { name: "Sessions" }).locator("tbody tr").filter({ hasText: "gw-3" });
  await expect(third).toContainText("not connected");
  await Gateway.connect(haltline, "gw-3", { ...claim, build: "router 2.4.0" });
  await expect(third).toContainText("quarantined");
  await expect(dark.locator(".panel").filter({ hasText: "Preflight" })).toContainText("MAY NOT OPEN");
  await shot(dark, "sessions");

  // The way back: the first person asks, the second agrees.
  await goTo(dark, "Halts");
  await dark.getByRole("button", { name: "Re-arm firm" }).click();
  const ask = dark.getByRole("dialog", { name: "Re-arm firm" });
  await ask.getByLabel("I have read the causes").check();
  await ask.getByLabel("Reason").fill("vwap-007 is off, positions checked with the desk");
  await shot(dark, "rearm");
  await ask.getByRole("button", { name: "Re-arm firm" }).click();
  await expect(ask).toContainText("WAITS for a second person");
  await dark.keyboard.press("Escape");
  const second = await enter("ruth", { colorScheme: "light" });
  await goTo(second, "Halts");
  await expect(banner(second, "rita asks to re-arm firm")).toBeVisible();
  await expect(second.getByRole("button", { name: "Agree…" })).toBeVisible();
  await shot(second, "second");
  await second.getByRole("button", { name: "Agree…" }).click();
  const agree = second.getByRole("dialog", { name: /Second person/ });
  await agree.getByLabel("I have read the causes").check();
  await agree.getByLabel("Reason").fill("checked, too");
  await agree.getByRole("button", { name: "Agree: re-arm firm" }).click();
  await expect(agree).toContainText("RE-ARMED");
  await second.keyboard.press("Escape");

  // Limits that are others for a while.
  await rearm(haltline, of("vwap-007"));
  const cut = {
    scope: of("mm-001"),
    rule: "order_qty",
    limit: 500,
    for_seconds: 3_600,
    reason: "thin book before lunch",
  };
  await haltline.ask("rita", "POST", "/v1/overrides", cut);
  const { body } = await haltline.ask("rita", "GET", "/v1/overrides");
  const raise = { ...cut, scope: of("arb-002"), limit: 6_000, reason: "a block for a client", etag: body.etag };
  await haltline.ask("ruth", "POST", "/v1/overrides", raise);
  await expect(banner(dark, "ruth asks to override")).toBeVisible();
  await goTo(dark, "Overrides");
  await expect(dark.getByRole("region", { name: "Probation" })).toBeVisible();
  await shot(dark, "overrides");
  await goTo(dark, "Limits");
  await expect(dark.locator("tbody tr").first()).toBeVisible();
  await dark.getByLabel("Find by scope or limit").fill("mm-001");
  await shot(dark, "limits");
  await goTo(dark, "Drills");
  await expect(dark.locator("tbody tr").first()).toBeVisible();
  await shot(dark, "drills");
  await goTo(dark, "Incidents");
  await expect(dark.locator("tbody tr").first()).toBeVisible();
  await shot(dark, "incidents");
  await goTo(dark, "Audit");
  await expect(dark.locator("tbody tr").first()).toBeVisible();
  await shot(dark, "audit");

  await goTo(light, "Overview");
  haltline.signal("SIGSTOP");
  await expect(light.locator("#app")).toHaveAttribute("data-fresh", "stale");
  await shot(light, "stale");
  haltline.signal("SIGCONT");
});
