// What instances run: measured or claimed, judged, quarantined, approved by a person; and whether the fleet may open.

import { expect, goTo, kill, row, test, until } from "./support/console.mjs";
import { Gateway } from "./support/gateway.mjs";
import { Haltline, haltlineIn } from "./support/haltline.mjs";

/** @typedef {import("@playwright/test").Page} Page */

/** The row of a session. @param {Page} page @param {string} name */
const session = (page, name) =>
  page.getByRole("region", { name: "Sessions" }).locator("tbody tr").filter({ hasText: name });

test.describe("without a manifest", () => {
  test.use({ more: "[guard.attestation]\n" });

  test("a change during an incident is quarantined with its reason, approved by a person, and re-armed apart", async ({
    haltline,
    enter,
  }) => {
    const [olaf, rita] = [await enter("olaf"), await enter("rita")];
    const before = await Gateway.connect(haltline, "gw-1", {
      build: "router 2.4.1",
      flags: { rlp: "on" },
      host: "tor-7",
    });
    await goTo(rita, "Sessions");
    await expect(session(rita, "gw-1").locator(".builds")).toContainText("approved");
    await expect(session(rita, "gw-1").locator(".builds")).toContainText("router 2.4.1 claimed");
    await expect(session(rita, "gw-1").locator(".builds")).toContainText("rlp=on");
    await expect(session(rita, "gw-1").locator(".builds")).toContainText("tor-7");
    before.close();
    await expect(session(rita, "gw-1")).toContainText("not connected");
    const receipt = await kill(olaf, "mm-01", "a runaway on server 8");
    // Before there is an answer, Escape does not close it.
    await expect(receipt.locator(".verdict")).toContainText("CONFIRMED");
    await olaf.keyboard.press("Escape");

    // The rollback, in the middle of it.
    const after = await Gateway.connect(haltline, "gw-1", {
      build: "router 2.4.0",
      flags: { rlp: "on" },
      host: "tor-7",
    });
    const builds = session(rita, "gw-1").locator(".builds");
    await expect(builds.locator(".chip")).toHaveText("quarantined");
    const waits = builds.getByRole("list", { name: "To approve of gw-1" });
    await expect(waits.getByRole("listitem")).toHaveCount(1);
    await expect(waits).toContainText("router 2.4.1");
    await expect(waits).toContainText("→ router 2.4.0");
    await expect(builds).toContainText("strategy mm-01 is halted");
    await expect(builds).toContainText("a runaway on server 8");
    // It is a halt like any other, and the overview says who and why.
    await expect(row(olaf, "session gw-1").locator(".state")).toHaveText("halted");
    await expect(olaf.locator(".halt").filter({ hasText: "session gw-1" })).toContainText("attestation");
    after.order("arb-01");
    await until(async () => after.denied === 1, "its order is denied");
    await goTo(olaf, "Sessions");
    await expect(session(olaf, "gw-1").locator(".chip").filter({ hasText: "quarantined" })).toBeVisible();
    await expect(olaf.getByRole("button", { name: /Approve the build/ })).toHaveCount(0);

    // As long as nobody has approved it, nobody can re-arm it: and why is said.
    await goTo(rita, "Halts");
    await rita.getByRole("button", { name: "Re-arm session gw-1" }).click();
    const held = rita.getByRole("dialog", { name: "Re-arm session gw-1" });
    await held.getByLabel("I have read the causes").check();
    await held.getByLabel("Reason").fill("it looks right");
    await held.getByRole("button", { name: "Re-arm session gw-1" }).click();
    await expect(held.getByRole("alert")).toContainText("Held");
    await expect(held.getByRole("alert")).toContainText("approve the change");
    await rita.keyboard.press("Escape");

    await goTo(rita, "Sessions");
    await rita.getByRole("button", { name: "Approve the build of gw-1" }).click();
    const dialog = rita.getByRole("dialog", { name: "Approve the build of gw-1" });
    const listed = dialog.getByRole("list", { name: "To approve" });
    await expect(listed).toContainText("→ router 2.4.0");
    await dialog.getByRole("button", { name: "Approve" }).click();
    await expect(dialog.getByRole("alert")).toContainText("an approval needs a reason");
    // Somebody deploys once more while it is being looked at: that is not what was looked at.
    after.close();
    await expect(session(rita, "gw-1")).toContainText("not connected");
    const last = await Gateway.connect(haltline, "gw-1", { build: "router 2.3.9", flags: {}, host: "tor-7" });
    await expect(listed).toContainText("→ router 2.4.0");
    await dialog.getByLabel("Reason").fill("the old build was looked at");
    await dialog.getByRole("button", { name: "Approve" }).click();
    await expect(dialog.getByRole("alert")).toContainText("It runs something else by now");
    await expect(listed.getByRole("listitem")).toHaveCount(2);
    await expect(listed).toContainText("→ router 2.3.9");
    await expect(listed).toContainText("flag rlp on → not said");
    await expect(builds.locator(".chip")).toHaveText("quarantined");
    await dialog.getByRole("button", { name: "Approve" }).click();
    await expect(dialog).toHaveCount(0);
    await expect(builds.locator(".chip")).toHaveText("approved");
    // Approved is not re-armed.
    expect(await haltline.mode("session", "gw-1")).toBe("halted");
    await goTo(rita, "Halts");
    await rita.getByRole("button", { name: "Re-arm session gw-1" }).click();
    const free = rita.getByRole("dialog", { name: "Re-arm session gw-1" });
    await free.getByLabel("I have read the causes").check();
    await free.getByLabel("Reason").fill("approved");
    await free.getByRole("button", { name: "Re-arm session gw-1" }).click();
    await expect(free).toContainText("RE-ARMED");
    last.order("arb-01", { then: "expire" });
    await until(async () => last.admitted === 1, "its orders are admitted");
  });
});

test.describe("with a signed manifest", () => {
  test.use({
    haltline: async ({}, use) => {
      const instances = ["gw-1", "gw-2", "gw-3"].flatMap((name) => ["--instance", name]);
      const haltline = await Haltline.start({
        trades: "arb-01",
        prepare: (dir) => {
          const key = haltlineIn(dir, "manifest", "keygen", "secret");
          const make = ["manifest", "make", "--out", "manifest.toml", "--strategy", "arb-01", "--path", "websocket"];
          haltlineIn(dir, ...make, ...instances, "--build", "router 2.4.1");
          haltlineIn(dir, "manifest", "sign", "manifest.toml", "--key", "secret");
          return `[guard.attestation]\nmanifest = "manifest.toml"\nkey = "${key}"\n`;
        },
      });
      await use(haltline);
      await haltline.stop();
    },
  });

  test("a build that is not in it sends nothing, and the preflight page says that the fleet may not open", async ({
    haltline,
    enter,
  }) => {
    const rita = await enter("rita");
    await Gateway.connect(haltline, "gw-1", { build: "router 2.4.1" });
    const other = await Gateway.connect(haltline, "gw-2", { build: "router 9" });
    await goTo(rita, "Sessions");
    await expect(session(rita, "gw-1").locator(".builds .chip")).toHaveText("approved");
    const builds = session(rita, "gw-2").locator(".builds");
    await expect(builds.locator(".chip")).toHaveText("quarantined");
    await expect(builds).toContainText("router 9");
    await expect(session(rita, "gw-3").locator(".builds .chip")).toHaveText("absent");
    other.order("arb-01");
    await until(async () => other.denied === 1, "its order is denied");
    // What the manifest says is not one person's to set aside.
    await expect(rita.getByRole("button", { name: /Approve the build/ })).toHaveCount(0);
    const { status } = await haltline.ask("rita", "POST", "/v1/sessions/gw-2/approve", {
      tag: "0",
      reason: "let it be",
    });
    expect(status).toBe(409);
    await expect(builds.locator(".chip")).toHaveText("quarantined");

    const page = rita.locator(".panel").filter({ hasText: "Preflight" });
    await expect(page.locator("header .chip")).toHaveText("MAY NOT OPEN");
    // What fails is on top.
    const first = page.locator("tbody tr").first();
    await expect(first.locator(".chip")).toHaveText("fail");
    await expect(
      page.locator("tbody tr").filter({ hasText: "gw-2" }).filter({ hasText: "fail" }).first(),
    ).toBeVisible();
    await expect(page.locator("tbody tr").filter({ hasText: "gw-3" }).filter({ hasText: "missing" })).toBeVisible();
  });
});
