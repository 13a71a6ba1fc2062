// Receives from the view's process: state and notices as events, frames one at a time.
//
// A notice has no pixels.  The newest frame is requested when the last one has arrived, so a slow
// page sees fewer frames, never late ones.  A hidden page receives nothing.

import { decodeFrame } from "./frame.js";

const RETRY_MS = 1000;
const FETCH_MS = 8000;

export class Feed extends EventTarget {
  constructor() {
    super();
    this.state = "connecting";
    this.busy = false;
    this.waiting = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
    addEventListener("pagehide", () => this.stop());
    addEventListener("pageshow", () => this.start());
  }

  start() {
    if (this.source || document.hidden) return;
    const source = (this.source = new EventSource("/api/v1/events"));
    source.addEventListener("status", (event) => {
      this.become("open");
      this.tell("status", JSON.parse(event.data));
    });
    source.addEventListener("jobs", (event) => this.tell("jobs", JSON.parse(event.data)));
    source.addEventListener("frame", (event) => this.tell("notice", JSON.parse(event.data)));
    source.addEventListener("error", () => {
      if (this.source !== source) return;
      // We retry ourselves: browsers give up after some answers, and wait long after others.
      this.stop();
      this.become("lost");
      this.retry = setTimeout(() => this.start(), RETRY_MS);
    });
  }

  stop() {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.tell("state", state);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  // Request a frame; of the requests made while one is being answered, only the last is sent.
  want(path, parameters, take) {
    this.waiting = { path, parameters, take };
    if (!this.busy) this.next();
  }

  async next() {
    const wish = this.waiting;
    this.waiting = null;
    if (!wish) return;
    this.busy = true;
    try {
      const answer = await get(wish.path, wish.parameters);
      if (answer.status === 200) wish.take(decodeFrame(await answer.arrayBuffer()), null);
      else if (answer.status !== 204) wish.take(null, (await answer.json()).error);
    } catch (error) {
      wish.take(null, error.name === "TimeoutError" ? "the frame did not come in time" : null);
    } finally {
      this.busy = false;
      this.next();
    }
  }
}

export function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value === undefined || value === null || value === "") continue;
    query.set(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  return fetch(`${path}?${query}`, { signal: AbortSignal.timeout(FETCH_MS), cache: "no-store" });
}

// The error in our words, because each browser words "Failed to fetch" differently.
async function reached(request) {
  try {
    return await request;
  } catch {
    throw new Error("the live view does not answer; try again in a moment");
  }
}

export async function getJson(path, parameters) {
  const answer = await reached(get(path, parameters));
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

export async function post(path, body) {
  const answer = await reached(fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Refocusd-View": "1" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(FETCH_MS),
  }));
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}
