// The stream of live state: read with fetch, connected again for as long as somebody is logged in.

import { Problem, problemText } from "./client.js";

/**
 * A browser keeps six connections to a server. Streams of all its windows take half of them at most, so a kill always
 * finds one.
 */
const STREAMS_OF_A_BROWSER = 3;

/** The longest wait before another attempt. */
const RETRY_MAX_MS = 3_000;

/** No byte for this long, and the connection is given up: haltline speaks every second. */
const SILENCE_MS = 6_000;

/**
 * @typedef {{
 *   event: (event: import("./types.js").StreamEvent) => void,
 *   lost: (why: string) => void,
 *   loggedOut: () => void,
 * }} Listener
 */

/** Splits server-sent events out of what arrives. */
export class EventSplitter {
  constructor() {
    this.rest = "";
  }

  /** @param {string} text @returns {{ event: string, data: string }[]} */
  feed(text) {
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop() ?? "";
    const events = [];
    for (const block of blocks) {
      let event = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length > 0) events.push({ event, data: data.join("\n") });
    }
    return events;
  }
}

/** @param {Listener} listener @returns {() => void} ends it */
export function follow(listener) {
  const over = new AbortController();
  void run(listener, over.signal);
  return () => over.abort();
}

/** @param {Listener} listener @param {AbortSignal} over */
async function run(listener, over) {
  let failures = 0;
  while (!over.aborted) {
    let why;
    try {
      why = await inOnePlace(listener, over, () => {
        failures = 0;
      });
    } catch (error) {
      if (over.aborted) return;
      if (error instanceof Problem && error.status === 401) {
        listener.loggedOut();
        return;
      }
      why = error instanceof Problem ? problemText(error) : "haltline cannot be reached.";
    }
    if (over.aborted) return;
    listener.lost(why);
    const wait = Math.min(RETRY_MAX_MS, 200 * 2 ** failures);
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, wait * (0.75 + Math.random() / 2)));
  }
}

/** One stream in one of the browser's places. Waits if all are taken. @param {Listener} listener @param {AbortSignal} over @param {() => void} opened */
async function inOnePlace(listener, over, opened) {
  // Only a page that came in a safe way has locks; without, nothing counts windows.
  if (!navigator.locks) return stream(listener, over, opened);
  for (let place = 0; place < STREAMS_OF_A_BROWSER; place += 1) {
    const why = await navigator.locks.request(`haltline-stream-${place}`, { ifAvailable: true }, (lock) =>
      lock ? stream(listener, over, opened) : null,
    );
    if (why !== null) return why;
  }
  return `This browser shows haltline in ${STREAMS_OF_A_BROWSER} other windows already: close one. A kill works here too.`;
}

/** Reads one stream to its end. @param {Listener} listener @param {AbortSignal} over @param {() => void} opened @returns {Promise<string>} why it ended */
async function stream(listener, over, opened) {
  const control = new AbortController();
  const end = () => control.abort();
  over.addEventListener("abort", end);
  let timer = setTimeout(end, SILENCE_MS);
  try {
    const answer = await fetch("/v1/stream", {
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: control.signal,
    });
    if (!answer.ok || !answer.body) {
      const text = await answer.text();
      throw new Problem(answer.status, safely(text));
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const splitter = new EventSplitter();
    let expected = 0;
    for (;;) {
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return "The connection was closed.";
      timer = setTimeout(end, SILENCE_MS);
      for (const { event, data } of splitter.feed(value)) {
        const said = JSON.parse(data);
        if (event === "cut" || event === "bye") return String(said.reason);
        if (event !== "state" && event !== "delta") continue;
        // A number that is missing means that something was not heard: begin again with the whole state.
        if (event === "delta" && said.seq !== expected) return "An event was missed.";
        expected = said.seq + 1;
        if (event === "state") opened();
        listener.event(said);
      }
    }
  } catch (error) {
    if (error instanceof Problem || over.aborted) throw error;
    return control.signal.aborted ? "Nothing came for too long." : "haltline cannot be reached.";
  } finally {
    clearTimeout(timer);
    over.removeEventListener("abort", end);
    control.abort();
  }
}

/** @param {string} text @returns {Record<string, any>} */
function safely(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 200) };
  }
}
