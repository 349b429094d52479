// Requests to this server: who is logged in, time-outs, problems as haltline tells them.

/** How long an answer may take. Nothing may hold a connection for ever: a browser has six, and a kill needs one. */
const PATIENCE_MS = 10_000;

/** An answer that is no success: RFC 9457 members as they came. */
export class Problem extends Error {
  /** @param {number} status @param {Record<string, any>} body */
  constructor(status, body) {
    super(String(body.detail || body.title || `status ${status}`));
    this.status = status;
    this.kind = String(body.type ?? "").replace("urn:haltline:problem:", "");
    this.title = String(body.title ?? `Status ${status}`);
    this.body = body;
  }

  /** All of it in one text. */
  get text() {
    const violations = Array.isArray(this.body.violations) ? `: ${this.body.violations.join("; ")}` : "";
    return `${this.title}: ${this.message}${violations}`;
  }
}

/** No answer: whether the server took the request is not known. */
export class NoAnswer extends Error {}

/** @param {unknown} error */
export const problemText = (error) =>
  error instanceof Problem ? error.text : error instanceof Error ? error.message : String(error);

export class Client extends EventTarget {
  constructor() {
    super();
    /** @type {import("./types.js").Me | null} */
    this.me = null;
    /** Requests that a kill may end, to have their connections. @type {Set<AbortController>} */
    this.endable = new Set();
  }

  /**
   * Asks, and gives back the answer's body.
   * @param {string} method @param {string} path
   * @param {{ body?: any, headers?: Record<string, string>, timeoutMs?: number, urgent?: boolean }} [options]
   * @returns {Promise<any>}
   */
  async ask(method, path, options = {}) {
    const control = new AbortController();
    const timer = setTimeout(() => control.abort(), options.timeoutMs ?? PATIENCE_MS);
    if (options.urgent) this.makeWay();
    else if (method === "GET") this.endable.add(control);
    try {
      const answer = await fetch(path, {
        method,
        headers: {
          ...(options.body === undefined ? {} : { "content-type": "application/json" }),
          ...(method === "GET" ? {} : WRITES),
          ...options.headers,
        },
        body: options.body === undefined ? undefined : JSON.stringify(options.body),
        credentials: "same-origin",
        cache: "no-store",
        redirect: "error",
        signal: control.signal,
        ...(options.urgent ? { priority: "high", keepalive: true } : {}),
      });
      const text = await answer.text();
      const body = parse(text);
      if (answer.ok) return body;
      if (answer.status === 401) this.lost(options.urgent ? NOT_HALTED : OVER);
      throw new Problem(
        answer.status,
        body ?? { title: answer.statusText || `Status ${answer.status}`, detail: text.slice(0, 200) },
      );
    } catch (error) {
      if (error instanceof Problem) throw error;
      throw new NoAnswer(control.signal.aborted ? "No answer in time." : "haltline could not be reached.");
    } finally {
      clearTimeout(timer);
      this.endable.delete(control);
    }
  }

  /** @param {string} path @param {{ timeoutMs?: number }} [options] */
  get(path, options) {
    return this.ask("GET", path, options);
  }

  /** As `get`; null where this haltline has nothing at the path, or the login may not see it. @param {string} path */
  async find(path) {
    try {
      return await this.get(path);
    } catch (error) {
      if (error instanceof Problem && (error.status === 404 || error.status === 403)) return null;
      throw error;
    }
  }

  /** @param {string} path @param {any} body @param {Record<string, string>} [headers] */
  post(path, body, headers) {
    return this.ask("POST", path, { body, headers });
  }

  /** Ends what may wait, so that a kill finds a connection. */
  makeWay() {
    for (const control of this.endable) control.abort();
    this.endable.clear();
  }

  /** The login is not valid any more. @param {string} [why] */
  lost(why = OVER) {
    if (!this.me) return;
    this.me = null;
    this.dispatchEvent(new CustomEvent("lost", { detail: why }));
  }
}

/** Sent with every change: a page of somebody else cannot make a browser send it along. */
const WRITES = { "x-haltline": "console" };

const OVER = "The session is over: log in again.";
const NOT_HALTED = "NOTHING WAS HALTED: the session was over when kill was pressed. Log in and press again.";

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const RANK = { viewer: 1, operator: 2, risk: 3 };

/** Whether the login has at least this role. @param {import("./types.js").Me | null} me @param {"viewer" | "operator" | "risk"} role */
export const may = (me, role) => me !== null && (RANK[/** @type {keyof typeof RANK} */ (me.role)] ?? 0) >= RANK[role];
