// The real program as a child process, with a configuration and a state directory of its own.

import { execFileSync, spawn } from "node:child_process";
import http from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const TOP = fileURLToPath(new URL("../../..", import.meta.url));

/** The program under test: built by `cargo build`, or named by the environment. */
const PROGRAM = process.env.HALTLINE ?? path.join(TOP, "target/debug/haltline");

/** How long anything may take before a test fails. Nothing waits for this long when all is well. */
export const PATIENCE_MS = 120_000;

/** People of every test, and their roles. */
export const PEOPLE = { vera: "viewer", olaf: "operator", rita: "risk", ruth: "risk" };

/** A token and its hash, as the program makes them. @param {string} name @param {string} role */
function newToken(name, role) {
  const dir = mkdtempSync(path.join(tmpdir(), "haltline-token-"));
  const script = '"$0" token --name "$1" --role "$2" 2>"$3/said"; cat "$3/said"';
  const text = execFileSync("sh", ["-c", script, PROGRAM, name, role, dir], { encoding: "utf8" });
  rmSync(dir, { recursive: true });
  const [token, hash] = text.match(/\b[0-9a-f]{64}\b/g) ?? [];
  if (!token || !hash) throw new Error(`no token: ${text}`);
  return { token, hash };
}

/**
 * Names of a world of this many strategies.
 * @param {number} strategies
 */
export function names(strategies) {
  const families = ["arb", "mm", "trend", "vwap", "pairs"];
  const width = strategies > 100 ? 3 : 2;
  return Array.from({ length: strategies }, (_, i) => {
    const number = String(Math.floor(i / families.length) + 1).padStart(width, "0");
    return `${families[i % families.length]}-${number}`;
  });
}

export const INSTRUMENTS = ["AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "META"];
export const ACCOUNTS = ["EQ1", "EQ2"];
export const GATEWAYS = ["gw-1", "gw-2", "gw-3"];

/**
 * @param {string} dir
 * @param {{ strategies: number, trades: string, more: string, tokens: Record<string, { token: string, hash: string }> }} options
 */
function config(dir, { strategies, trades, more, tokens }) {
  const people = Object.entries(PEOPLE).map(
    ([name, role]) => `  { name = "${name}", role = "${role}", hash = "${tokens[name].hash}" },`,
  );
  const session = (/** @type {string} */ name, /** @type {string} */ kind) =>
    `[sessions.${name}]\nkind = "${kind}"\ntoken_hash = "${tokens[name].hash}"${kind === "ask" && trades ? `\nstrategies = ["${trades}"]` : ""}`;
  return `
[service]
state_dir = "${dir}/state"
[engine]
working_orders = 65_536
remembered_orders = 65_536
execs = 65_536
pairs = 16_384
recent_orders = 16_384
[ingest]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[journal]
segment_bytes = 8_388_608
ring_cells = 65_536
ring_dir = "${dir}"
[auth]
two_person_rearm = ["firm", "strategy"]
tokens = [
${people.join("\n")}
]
${ACCOUNTS.map((name) => `[accounts.${name}]`).join("\n")}
${names(strategies)
  .map((name, i) => `[strategies.${name}]\naccount = "${ACCOUNTS[i % ACCOUNTS.length]}"`)
  .join("\n")}
${INSTRUMENTS.map((name, i) => `[instruments.${name}]\nreference = "${100 + 20 * i}.00"\nreference_max_age = "unlimited"\npx_scale = 2\nqty_scale = 0`).join("\n")}
${GATEWAYS.map((name) => session(name, "ask")).join("\n")}
${session("prices", "reference")}
[limits.firm]
gross_exposure = { max = 50_000_000, action = "halt" }
daily_loss = { max = 2_000_000, action = "halt" }
working_orders = 20_000
others = "unlimited"
[limits.account."*"]
gross_exposure = { max = 30_000_000, action = "halt" }
others = "unlimited"
[limits.strategy."*"]
gross_exposure = { max = 1_000_000, action = "halt" }
daily_loss = { max = 100_000, action = "halt" }
working_orders = 200
order_qty = 5_000
order_rate = { count = 60, per = "1s", action = "halt" }
others = "unlimited"
[limits.pair."*"]
others = "unlimited"
[limits.instrument."*"]
gross_exposure = 40_000_000
others = "unlimited"
[limits.session."*"]
working_orders = 10_000
others = "unlimited"
${more}
`;
}

/** Runs the program in a directory; what it prints. @param {string} dir @param {...string} args */
export const haltlineIn = (dir, ...args) =>
  execFileSync(PROGRAM, args, { cwd: dir, stdio: "pipe", encoding: "utf8" }).trim();

/** A running service. */
export class Haltline {
  /**
   * @param {{ strategies?: number, trades?: string, more?: string, prepare?: (dir: string) => string }} [options] `trades`: the only
   * strategy that sessions may trade; `more` is further configuration, and so is what `prepare` returns, which may put files into the directory
   */
  static async start(options = {}) {
    const dir = mkdtempSync(path.join(tmpdir(), "haltline-console-"));
    const more = `${options.more ?? ""}\n${options.prepare?.(dir) ?? ""}`;
    /** @type {Record<string, { token: string, hash: string }>} */
    const tokens = {};
    for (const [name, role] of Object.entries(PEOPLE)) tokens[name] = newToken(name, role);
    for (const name of [...GATEWAYS, "prices"]) tokens[name] = newToken(name, "session");
    writeFileSync(
      path.join(dir, "haltline.toml"),
      config(dir, { strategies: options.strategies ?? 24, trades: options.trades ?? "", more, tokens }),
    );
    execFileSync(PROGRAM, ["init", "--config", "haltline.toml"], { cwd: dir, stdio: "pipe" });
    const made = new Haltline(dir, tokens);
    await made.run();
    return made;
  }

  /** @param {string} dir @param {Record<string, { token: string, hash: string }>} tokens */
  constructor(dir, tokens) {
    this.dir = dir;
    this.tokens = tokens;
    this.log = "";
    this.ws = "";
    this.http = "";
  }

  /** Starts it, on ports of the system's choice the first time and the same ones after that. */
  async run() {
    // Only now: until it is started again the file is what runs, and preflight looks at that.
    if (this.http) this.keepPorts();
    const child = spawn(PROGRAM, ["serve", "--config", "haltline.toml"], {
      cwd: this.dir,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.child = child;
    this.log = "";
    this.ended = new Promise((resolve) => child.once("exit", resolve));
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`it does not serve:\n${this.log}`)), PATIENCE_MS);
      child.once("exit", () => reject(new Error(`it ended before it served:\n${this.log}`)));
      child.stderr.on("data", (bytes) => {
        this.log = (this.log + bytes).slice(-20_000);
        const found = /serving: events at (ws:\/\/\S+), people at (http:\/\/\S+)/.exec(this.log);
        if (found) {
          [, this.ws, this.http] = found;
          clearTimeout(timer);
          resolve(undefined);
        }
      });
    });
  }

  /** A run after this one listens where this one does. */
  keepPorts() {
    const file = path.join(this.dir, "haltline.toml");
    const ports = [this.ws, this.http].map((url) => new URL(url).port);
    let at = 0;
    writeFileSync(
      file,
      readFileSync(file, "utf8").replace(/"127\.0\.0\.1:0"/g, () => `"127.0.0.1:${ports[at++]}"`),
    );
  }

  /** @param {NodeJS.Signals} name */
  signal(name) {
    this.child?.kill(name);
  }

  async stop() {
    this.signal("SIGCONT");
    this.signal("SIGKILL");
    await this.ended;
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** One request as somebody. @param {keyof typeof PEOPLE} who @param {string} method @param {string} where @param {any} [body] */
  async ask(who, method, where, body) {
    // haltline gives a connection up that has not said what it wants within three seconds. This process may stand still for as
    // long when the machine is busy; nothing was begun then, and it asks anew.
    for (let tries = 1; ; tries += 1) {
      try {
        const answer = await this.exchange(who, method, where, body);
        if (answer.status !== 408) return { status: answer.status, body: JSON.parse(answer.text) };
      } catch (error) {
        const { code } = /** @type {NodeJS.ErrnoException} */ (error);
        if (tries === 20 || !["ECONNRESET", "EPIPE"].includes(code ?? "")) throw error;
      }
    }
  }

  /**
   * The same on a connection of its own: one that was kept may be given up in the moment in which it is used again.
   * @param {keyof typeof PEOPLE} who @param {string} method @param {string} where @param {any} [body]
   * @returns {Promise<{ status: number, text: string }>}
   */
  exchange(who, method, where, body) {
    const sent = body ? JSON.stringify(body) : "";
    const headers = {
      authorization: `Bearer ${this.tokens[who].token}`,
      ...(body ? { "content-type": "application/json", "content-length": Buffer.byteLength(sent) } : {}),
    };
    return new Promise((resolve, reject) => {
      const asked = http.request(this.http + where, { method, headers, agent: false }, (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (chunk) => (text += chunk));
        answer.once("error", reject);
        answer.once("end", () => resolve({ status: answer.statusCode ?? 0, text }));
      });
      asked.once("error", reject);
      asked.end(sent);
    });
  }

  /** The mode of a scope. @param {string} kind @param {string} name */
  async mode(kind, name) {
    const { body } = await this.ask("vera", "GET", "/v1/state");
    const halt = body.halts.find((/** @type {any} */ halt) => halt.scope.kind === kind && halt.scope.name === name);
    return halt?.mode ?? "normal";
  }
}
