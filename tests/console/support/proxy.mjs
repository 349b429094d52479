// What can lie between a browser and haltline, and go wrong: a stream that stands still, is late, or is cut.

import http from "node:http";

export class Proxy {
  /** @param {string} target */
  static async before(target) {
    const proxy = new Proxy(new URL(target));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", () => resolve(undefined)));
    const address = /** @type {import("node:net").AddressInfo} */ (proxy.server.address());
    proxy.http = `http://127.0.0.1:${address.port}`;
    return proxy;
  }

  /** @param {URL} target */
  constructor(target) {
    this.target = target;
    this.http = "";
    /** Events wait here as long as this is true. */
    this.frozen = false;
    /** Events say that they were made at this moment at the latest, as if they were held up on their way. */
    this.madeAt = Infinity;
    /** Every event says that the engine stands still. */
    this.engineStands = false;
    /** Answers to kills are lost after haltline has had them. */
    this.losesKills = false;
    this.kills = 0;
    /** @type {Set<http.ServerResponse>} */
    this.streams = new Set();
    this.server = http.createServer((request, response) => this.pass(request, response));
  }

  /** @param {http.IncomingMessage} request @param {http.ServerResponse} response */
  pass(request, response) {
    const to = {
      host: this.target.hostname,
      port: this.target.port,
      path: request.url,
      method: request.method,
      headers: request.headers,
      // A connection that was kept may be given up in the moment in which it is used again.
      agent: false,
    };
    const asked = http.request(to, (answer) => {
      const isKill = request.url === "/v1/kill";
      if (isKill) this.kills += 1;
      if (isKill && this.losesKills) {
        answer.resume();
        answer.once("end", () => response.destroy());
        return;
      }
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      if (request.url !== "/v1/stream") {
        answer.pipe(response);
        return;
      }
      this.streams.add(response);
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (chunk) => {
        const events = (text + chunk).split("\n\n");
        text = events.pop() ?? "";
        for (const event of events) this.event(response, `${event}\n\n`);
      });
      answer.on("close", () => response.destroy());
    });
    asked.on("error", () => response.destroy());
    request.pipe(asked);
    response.on("close", () => {
      this.streams.delete(response);
      asked.destroy();
    });
  }

  /** @param {http.ServerResponse} response @param {string} event */
  event(response, event) {
    if (this.frozen) return;
    let told = event.replace(/"at_ms":(\d+)/g, (_, at) => `"at_ms":${Math.min(Number(at), this.madeAt)}`);
    if (this.engineStands)
      told = told
        .replace(/"stale":false/g, '"stale":true')
        .replace(/"last_round_age_ns":\d+/g, '"last_round_age_ns":9000000000');
    response.write(told);
  }

  /** Cuts every stream. */
  cut() {
    for (const response of this.streams) response.destroy();
  }

  async stop() {
    this.cut();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(() => resolve(undefined)));
  }
}
