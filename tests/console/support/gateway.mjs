// A gateway and its venue: asks before it sends, obeys halts and cancels, reports what the venue did.

import WebSocket from "ws";
import { INSTRUMENTS } from "./haltline.mjs";

/** @typedef {import("./haltline.mjs").Haltline} Haltline */

export class Gateway {
  /** @param {Haltline} haltline @param {string} name @param {any} [claim] what it says of itself: build, flags, host */
  static async connect(haltline, name, claim = {}) {
    const gateway = new Gateway(name);
    // Who takes too long to say hello is closed; this process may have stood still, and comes again.
    for (let tries = 1; tries <= 20; tries += 1) {
      const socket = new WebSocket(haltline.ws, ["haltline.v1.json"], {
        headers: { authorization: `Bearer ${haltline.tokens[name].token}` },
      });
      gateway.socket = socket;
      const welcome = await new Promise((resolve) => {
        socket.once("open", () => gateway.send({ type: "hello", ...claim }));
        socket.on("error", (error) => (gateway.why = error.message));
        socket.once("close", () => resolve(false));
        socket.on("message", (data) => {
          const message = JSON.parse(String(data));
          gateway.hear(message);
          if (message.type === "welcome") resolve(true);
        });
      });
      if (welcome) return gateway;
    }
    throw new Error(`${name} is not let in: ${gateway.why}`);
  }

  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** What was wrong with the connection. */
    this.why = "";
    this.seq = 0;
    this.serial = 0;
    /** What works at the venue, by id. @type {Map<string, any>} */
    this.working = new Map();
    /** Requests without a verdict, by id. @type {Map<string, any>} */
    this.asked = new Map();
    this.admitted = 0;
    this.denied = 0;
    /** Halts are obeyed; confirming them can be left out. */
    this.confirms = true;
    /** Cancels are done at the venue; they can be left unanswered. */
    this.cancels = true;
    /** The venue refuses them: its market is closed, say. */
    this.refuses = false;
    /** @type {any} */
    this.socket = null;
    /** The halt page as it was last told. */
    this.page = 0;
  }

  /** @param {any} message */
  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** @param {string} type @param {any} more */
  event(type, more) {
    this.seq += 1;
    this.send({ type, seq: this.seq, ...more });
  }

  /** @param {any} message */
  hear(message) {
    if (message.type === "welcome") this.seq = message.next_seq - 1;
    else if (message.type === "mode") this.mode(message);
    else if (message.type === "verdict") this.verdict(message);
    else if (message.type === "cancel" && this.cancels) this.cancel(message.id);
    else if (message.type === "error") throw new Error(`${this.name}: ${JSON.stringify(message)}`);
  }

  /** @param {any} message */
  mode(message) {
    this.page = message.page;
    if (this.confirms) this.send({ type: "mode_ack", page: message.page });
  }

  /** @param {any} message */
  verdict(message) {
    const order = this.asked.get(message.id);
    if (message.kind !== "new" || !order) return;
    this.asked.delete(message.id);
    if (message.verdict !== "admit") {
      this.denied += 1;
      return;
    }
    this.admitted += 1;
    this.event("ack", { id: order.id });
    if (order.then === "work") this.working.set(order.id, order);
    else if (order.then === "fill") this.fill(order);
    else this.event("expired", { id: order.id });
  }

  /** @param {any} order */
  fill(order) {
    const { id, strategy, instrument, side, qty, px } = order;
    this.event("fill", { id, exec_id: `x${id}`, strategy, instrument, side, qty, px });
  }

  /** @param {string} id */
  cancel(id) {
    if (!this.working.has(id)) return;
    this.serial += 1;
    const request = `${id}c${this.serial}`;
    this.event("cancel", { id: request, orig_id: id });
    if (this.refuses) {
      this.event("cancel_rejected", { id: request, orig_id: id });
      return;
    }
    this.working.delete(id);
    this.event("canceled", { id });
  }

  /**
   * Asks for an order; returns its id. `then`: it works on, is filled, or expires at once.
   * @param {string} strategy @param {{ qty?: number, instrument?: number, side?: string, then?: "work" | "fill" | "expire" }} [how]
   */
  order(strategy, { qty = 100, instrument = 0, side = "buy", then = "work" } = {}) {
    this.serial += 1;
    const at = instrument % INSTRUMENTS.length;
    const order = {
      id: `${this.name}-${this.serial}`,
      strategy,
      instrument: INSTRUMENTS[at],
      side,
      ord_type: "limit",
      qty,
      px: `${100 + 20 * at}.00`,
    };
    this.asked.set(order.id, { ...order, then });
    this.event("new", order);
    return order.id;
  }

  close() {
    this.socket.terminate();
  }
}

/**
 * Has a strategy ask for more orders than it may, until it is halted. They have to come within a second of haltline's clock: where
 * something stood still in the midst of them, more are needed.
 * @param {Haltline} haltline @param {Gateway} gateway @param {string} strategy
 */
export async function runAway(haltline, gateway, strategy) {
  for (;;) {
    const ids = Array.from({ length: 100 }, () => gateway.order(strategy, { then: "expire", qty: 1 }));
    while (ids.some((id) => gateway.asked.has(id))) await new Promise((resolve) => setTimeout(resolve, 20));
    if ((await haltline.mode("strategy", strategy)) !== "normal") return;
  }
}

/**
 * Orders of every strategy in turn, so many a second, for as long as it is not stopped.
 * @param {Gateway[]} gateways @param {string[]} strategies @param {number} perSecond
 */
export function flow(gateways, strategies, perSecond) {
  let began = performance.now();
  let sent = 0;
  const timer = setInterval(() => {
    // What was missed while this process stood still is not made up for: it would be more at once than a strategy may send.
    const missed = ((performance.now() - began) / 1_000 - 0.2) * perSecond - sent;
    if (missed > 0) began += (missed / perSecond) * 1_000;
    const due = Math.floor(((performance.now() - began) / 1_000) * perSecond);
    for (; sent < due; sent += 1) {
      const then = sent % 10 === 0 ? "fill" : "expire";
      const side = Math.floor(sent / strategies.length) % 2 === 0 ? "buy" : "sell";
      gateways[sent % gateways.length].order(strategies[sent % strategies.length], {
        instrument: sent,
        then,
        side,
        qty: 10,
      });
    }
  }, 20);
  return { stop: () => clearInterval(timer), sent: () => sent };
}
