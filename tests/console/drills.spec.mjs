// The switch rehearsed by the button, and what that has shown.

import { expect, find, goTo, test, until } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";

test.use({
  more: `
[drill]
session = "drill"
strategy = "drill"
instrument = "AAPL"
[strategies.drill]
account = "EQ1"
[sessions.drill]
kind = "ask"
strategies = ["drill"]
`,
});

/** @param {import("@playwright/test").Page} page */
async function openDrill(page) {
  await goTo(page, "Drills");
  await page.getByRole("button", { name: "Drill…" }).click();
  return page.getByRole("dialog", { name: "Drill" });
}

test("a drill by the button passes, and its evidence is there", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  const [rita, olaf] = [await enter("rita"), await enter("olaf")];
  await goTo(olaf, "Drills");
  await expect(olaf.getByText("none has passed yet")).toBeVisible();
  await expect(olaf.getByRole("button", { name: "Drill…" })).toHaveCount(0);

  const dialog = await openDrill(rita);
  await dialog.getByRole("button", { name: "Begin the drill" }).click();
  await expect(dialog.getByRole("alert")).toContainText("a drill needs a reason");
  await dialog.getByLabel("Reason").fill("weekly");
  await dialog.getByRole("button", { name: "Begin the drill" }).click();
  const verdict = dialog.locator(".verdict");
  let drills = 1;
  for (; ; drills += 1) {
    await expect(verdict).toHaveAttribute("data-status", /^(confirmed|unconfirmed)$/);
    if ((await verdict.getAttribute("data-status")) === "confirmed") break;
    // A step of a drill may take three seconds. One that took no longer as a whole has failed for another reason.
    const { body } = await haltline.ask("vera", "GET", "/v1/drills");
    expect(body.drills[0].took_ns, (await verdict.textContent()) ?? "").toBeGreaterThan(3e9);
    await rita.keyboard.press("Escape");
    await openDrill(rita);
    await dialog.getByLabel("Reason").fill("weekly");
    await dialog.getByRole("button", { name: "Begin the drill" }).click();
  }
  await expect(verdict).toContainText("PASSED");
  await expect(verdict).not.toContainText("NOT");
  await rita.keyboard.press("Escape");
  for (const page of [rita, olaf]) {
    await expect(page.locator("tbody tr")).toHaveCount(drills);
    const one = page.locator("tbody tr").first();
    await expect(one.locator(".chip")).toHaveText("passed");
    await expect(one).toContainText("strategy drill");
    await expect(one).toContainText("rita “weekly”");
    await expect(one).toContainText(/denied/);
    await expect(page.getByText(/last passed \d\d:\d\d:\d\d/)).toBeVisible();
  }
  // It is the same evidence that lies in the state directory, and nothing is halted any more.
  const { body } = await haltline.ask("vera", "GET", "/v1/drills");
  expect(body.drills).toHaveLength(drills);
  await expect(olaf.locator("tbody tr").first()).toContainText(body.drills[0].proved[0]);
  expect(await haltline.mode("strategy", "drill")).toBe("normal");
  // It is told for information: nobody has to answer it.
  await goTo(olaf, "Alerts");
  const told = olaf.locator("tbody tr").filter({ hasText: "drill passed" });
  await expect(told).toContainText("noted");
  await expect(told.getByRole("button")).toHaveCount(0);
  if (drills === 1) await expect(olaf.getByRole("link", { name: /Alerts/ })).toHaveText("Alerts");
  gateway.order("arb-01", { then: "expire" });
  await until(async () => gateway.admitted === 1, "the others trade on");
});

test("a scope that trades is not rehearsed on, and says why", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.order("arb-01");
  const rita = await enter("rita");
  await expect(rita.locator(".figures")).toContainText("Working orders1");
  const dialog = await openDrill(rita);
  await dialog.getByLabel("Scope", { exact: true }).selectOption("strategy");
  await dialog.getByLabel("Its name").fill("arb-01");
  await dialog.getByLabel("Reason").fill("weekly");
  await dialog.getByRole("button", { name: "Begin the drill" }).click();
  await expect(dialog.getByRole("alert")).toContainText("the scope is trading (1 working orders)");
  // It can be begun anew: on the one that is made for it.
  await dialog.getByLabel("Scope", { exact: true }).selectOption("");
  await dialog.getByRole("button", { name: "Begin the drill" }).click();
  await expect(dialog.locator(".verdict")).toContainText("PASSED");
  await rita.keyboard.press("Escape");
  expect(gateway.working.size).toBe(1);
  expect(await haltline.mode("strategy", "arb-01")).toBe("normal");
});

test("a drill that a gateway does not obey has not passed", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.confirms = false;
  const rita = await enter("rita");
  const dialog = await openDrill(rita);
  await dialog.getByLabel("Reason").fill("weekly");
  await dialog.getByRole("button", { name: "Begin the drill" }).click();
  await expect(dialog.locator(".verdict")).toHaveAttribute("data-status", "unconfirmed");
  await expect(dialog.locator(".verdict")).toContainText("NOT PASSED");
  await rita.keyboard.press("Escape");
  await expect(rita.locator("tbody tr .chip")).toHaveText("NOT PASSED");
  await expect(rita.getByText("none has passed yet")).toBeVisible();
  await goTo(rita, "Overview");
  await expect((await find(rita, "strategy drill")).locator(".state")).toHaveText("normal");
});
