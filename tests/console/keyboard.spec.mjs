// By keyboard alone, and nothing by accident.

import { expect, test } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";

test("login, kill, receipt and back without a mouse", async ({ haltline, enter }) => {
  const gateway = await Gateway.connect(haltline, "gw-1");
  gateway.order("trend-03");
  const page = await enter("");
  await expect(page.getByLabel("Token")).toBeFocused();
  await page.keyboard.type(haltline.tokens.olaf.token);
  await page.keyboard.press("Enter");
  await expect(page.locator("#app")).toHaveAttribute("data-fresh", "live");

  await page.keyboard.press("Alt+Shift+K");
  const dialog = page.getByRole("dialog", { name: "Kill" });
  await expect(dialog.getByRole("button", { name: /The whole firm/ })).toBeFocused();
  await page.keyboard.press("Tab");
  await page.keyboard.type("trend-03");
  await expect(dialog.getByRole("option")).toHaveCount(1);
  await page.keyboard.press("Enter");
  await expect(dialog.locator(".says")).toContainText("strategy trend-03");
  await expect(dialog.getByLabel("Reason")).toBeFocused();
  await page.keyboard.type("by keyboard");
  // Enter in a field presses nothing.
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  await expect(dialog.getByRole("button", { name: "HALT STRATEGY TREND-03" })).toBeFocused();
  expect(await haltline.mode("strategy", "trend-03")).toBe("normal");
  await page.keyboard.press("Space");
  await expect(page.locator(".verdict")).toContainText("CONFIRMED: strategy trend-03 is HALTED");
  const { body } = await haltline.ask("vera", "GET", "/v1/kills");
  expect(body.kills.map((/** @type {any} */ kill) => kill.reason)).toEqual(["by keyboard"]);
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
});

test("a key that is held down presses nothing, and the focus stays inside and comes back", async ({
  haltline,
  enter,
}) => {
  const page = await enter("olaf");
  const opener = page.locator("#kill");
  await opener.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  const firm = dialog.getByRole("button", { name: /The whole firm/ });
  await expect(firm).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(dialog.getByLabel("Reason")).toBeFocused();
  const press = dialog.getByRole("button", { name: "HALT FIRM" });
  await press.focus();
  // The second of these is a repeat: a key that was down already when the button got the focus.
  await page.evaluate(() => {
    const repeat = new KeyboardEvent("keydown", {
      key: "Enter",
      code: "Enter",
      repeat: true,
      bubbles: true,
      cancelable: true,
    });
    if (document.activeElement?.dispatchEvent(repeat)) throw new Error("a repeated Enter gets through");
  });
  // Round and round, the focus does not leave the dialog for the page behind it.
  for (let i = 0; i < 25; i += 1) {
    await page.keyboard.press("Tab");
    const outside = await page.evaluate(() => {
      const at = document.activeElement;
      return at !== document.body && at !== null && !at.closest("dialog");
    });
    expect(outside).toBe(false);
  }
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(opener).toBeFocused();
  expect(await haltline.mode("firm", "")).toBe("normal");
});
