// A thousand strategies, a thousand orders a second: the page keeps up, and says how well.

import { expect, kill, test } from "./support/console.mjs";
import { flow, Gateway } from "./support/gateway.mjs";
import { GATEWAYS, names } from "./support/haltline.mjs";

const STRATEGIES = 1_000;
const PER_SECOND = 1_000;
const SECONDS = 10;

// What is recorded of a run would be measured along with it.
test.use({ strategies: STRATEGIES, trace: "off" });

test("a thousand strategies at a thousand orders a second", async ({ haltline, enter }) => {
  const gateways = await Promise.all(GATEWAYS.map((name) => Gateway.connect(haltline, name)));
  const strategies = names(STRATEGIES);
  const load = flow(gateways, strategies, PER_SECOND);
  const page = await enter("olaf");
  await expect(page.locator(".scopes header")).toContainText("1,0");

  const metrics = await page.context().newCDPSession(page);
  await metrics.send("Performance.enable");
  const cpu = async () => {
    const { metrics: list } = await metrics.send("Performance.getMetrics");
    return list.find(({ name }) => name === "ThreadTime")?.value ?? NaN;
  };
  /** What a fixed piece of work costs this browser on this machine, in s of its processor. */
  const piece = async () => {
    const before = await cpu();
    await page.evaluate(() => {
      const rows = Array.from({ length: 1_000 }, (_, i) => ({
        kind: "strategy",
        name: `s${i}`,
        percent: i / 7,
        at: [i],
      }));
      for (let i = 0; i < 200; i += 1) JSON.parse(JSON.stringify(rows));
    });
    return (await cpu()) - before;
  };
  const [before, sent] = [await cpu(), load.sent()];
  const seen = await page.evaluate(async (seconds) => {
    /** @type {number[]} */
    const frames = [];
    /** @type {number[]} */
    const tasks = [];
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) tasks.push(entry.duration);
    });
    observer.observe({ type: "longtask" });
    /** @type {Set<string>} */
    const news = new Set();
    const began = performance.now();
    await new Promise((resolve) => {
      let before = began;
      const frame = (/** @type {number} */ now) => {
        frames.push(now - before);
        before = now;
        news.add(document.getElementById("updated-at")?.textContent ?? "");
        if (now - began < seconds * 1_000) requestAnimationFrame(frame);
        else resolve(undefined);
      };
      requestAnimationFrame(frame);
    });
    observer.disconnect();
    frames.sort((a, b) => a - b);
    const at = (/** @type {number} */ q) => frames[Math.min(frames.length - 1, Math.floor(frames.length * q))];
    return {
      frames: frames.length,
      p50: at(0.5),
      p95: at(0.95),
      p99: at(0.99),
      max: at(1),
      longTasks: tasks.length,
      longTaskMax: Math.max(0, ...tasks),
      longTaskSum: tasks.reduce((a, b) => a + b, 0),
      news: news.size,
      rows: document.querySelectorAll(".rows .row").length,
      scopes: document.querySelector(".scopes header")?.textContent,
    };
  }, SECONDS);
  const [busy, asked] = [((await cpu()) - before) / SECONDS, (load.sent() - sent) / SECONDS];
  const pieces = (busy * SECONDS) / (await piece());
  const { body } = await haltline.ask("vera", "GET", "/v1/state");
  console.log(
    `page at ${STRATEGIES} strategies, ${asked.toFixed(0)} orders/s asked: ${(busy * 100).toFixed(0)} % of a core for the page, as ${pieces.toFixed(1)} pieces of work; ${(seen.frames / SECONDS).toFixed(0)} frames/s, ` +
      `frame gap p50 ${seen.p50.toFixed(1)} ms, p95 ${seen.p95.toFixed(1)} ms, p99 ${seen.p99.toFixed(1)} ms, max ${seen.max.toFixed(0)} ms; ` +
      `${seen.longTasks} tasks over 50 ms, longest ${seen.longTaskMax.toFixed(0)} ms, ${((seen.longTaskSum / (SECONDS * 1_000)) * 100).toFixed(1)} % of the time; ` +
      `${(seen.news / SECONDS).toFixed(1)} updates/s shown; ${body.totals.admitted} orders admitted`,
  );
  // What it costs, measured in work that this machine has done as well, depends neither on the machine nor on what else it does. How
  // smooth it looks and how much was asked does, and is in the line above.
  expect(pieces).toBeLessThan(50);
  // It goes on showing what is new.
  const shown = () => page.locator("#updated-at").textContent();
  const last = await shown();
  await expect.poll(shown).not.toBe(last);
  // Rows are made for what is seen, not for all there is.
  expect(seen.rows).toBeLessThan(80);

  // Under all of it: find one of a thousand, kill it, and the receipt is there.
  await page.getByLabel("Find a scope by name").fill("pairs-137");
  await expect(page.locator(".rows .row")).toHaveCount(1);
  const receipt = await kill(page, "pairs-137", "one of a thousand");
  await expect(receipt.locator(".verdict")).toContainText("CONFIRMED: strategy pairs-137 is HALTED");
  load.stop();
});
