import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  outputDir: "../../target/console",
  // One after the other: what is measured is the page, not how tests share a machine.
  workers: 1,
  fullyParallel: false,
  retries: 0,
  // How long anything may take that has to happen: only a test that fails waits for so long.
  timeout: 900_000,
  expect: { timeout: 120_000 },
  reporter: [["list"]],
  use: {
    viewport: { width: 1440, height: 900 },
    colorScheme: "dark",
    actionTimeout: 120_000,
    trace: "retain-on-failure",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      // A container may have little memory to share.
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
      timeout: 300_000,
    },
  },
});
