// The queue of uploads: three at a time, each with its state. It knows nothing of the page.
//
// While the gateway does not take files the whole queue pauses, and files in flight wait again. Failed files stay in
// `failed` until they are retried or cleared, whether or not they have a row.
import { Failure } from "./api.js";
import { Backoff } from "./backoff.js";
import { decide, free, taken } from "./conflict.js";
import { onContact } from "./contact.js";
import { isStored, newId, put } from "./transfer.js";

const PARALLEL = 3;
// Most broken connections while one file is sent, each after the gateway answered another request. Beyond it the file
// fails, because the cause is probably the file or a proxy's limit, and the other files must not wait for it.
const MOST_BREAKS = 10;
// Bytes that are added to the size of each file in the bar, so that empty files show in it.
const EACH = 4096;

const nothing = () => ({ files: 0, bytes: 0, done: 0, failed: 0, left: 0, weight: 0, stored: 0, doneWeight: 0, failedWeight: 0 });
const weight = (item) => item.size + EACH;

// waiting -> running -> done | failed | skipped | cancelled; running -> waiting, when the gateway is away; failed ->
// waiting, when it is tried again.
export class Transfers extends EventTarget {
  #waiting = [];
  #running = new Set();
  #backoff = new Backoff(() => this.#next());
  // Items that failed.
  failed = new Set();
  // Totals of the uploads since `clear`, or since the first drop after uploads of which none failed.
  total = nothing();

  constructor() {
    super();
    // Another part of the page may notice first that the gateway is back.
    onContact((away) => { if (!away) this.#backoff.end(); });
  }

  get active() {
    return this.#running.size + this.#waiting.length > 0;
  }

  // {failure, seconds} while the gateway takes no files; 0 seconds while a try runs.
  get pause() {
    const { failure, seconds } = this.#backoff;
    return failure === null || !this.active ? null : { failure, seconds };
  }

  // Bytes that are stored or sent.
  get sent() {
    let sent = this.total.stored;
    for (const item of this.#running) sent += Math.min(item.sent, item.size);
    return sent;
  }

  // Shares of the bar: {done, failed}, both from 0 to 1. `done` includes bytes that were sent and not acknowledged yet.
  get shares() {
    const { weight: all, doneWeight, failedWeight } = this.total;
    let done = doneWeight;
    for (const item of this.#running) done += Math.min(item.sent, item.size);
    return { done: done / Math.max(1, all), failed: failedWeight / Math.max(1, all) };
  }

  // `found` are {file, name}.
  add(found) {
    const batch = {};
    if (!this.active && this.failed.size === 0) this.total = nothing();
    for (const { file, name } of found) {
      const item = { file, name, batch, size: file?.size ?? 0, id: newId() };
      this.total.files += 1;
      this.total.bytes += item.size;
      this.total.weight += weight(item);
      this.#queue(item);
    }
    this.#next();
  }

  // Items that can be tried again: a file that could not be opened cannot.
  get retriable() {
    return [...this.failed].filter((item) => item.file !== null);
  }

  retry(items) {
    const batch = {};
    for (const item of items) {
      if (!this.failed.delete(item)) continue;
      this.total.failed -= 1;
      this.total.failedWeight -= weight(item);
      item.batch = batch;
      this.#queue(item);
    }
    this.#next();
  }

  cancel(item) {
    if (item.state === "running") item.stop.abort();
  }

  cancelAll() {
    for (const item of this.#waiting.splice(0)) this.#record(item, "cancelled");
    for (const item of this.#running) item.stop.abort();
    this.#backoff.reset();
    this.#next();
  }

  // Ends a pause now.
  tryNow() {
    this.#backoff.end();
  }

  clear() {
    if (this.active) return;
    this.failed.clear();
    this.total = nothing();
  }

  #queue(item) {
    Object.assign(item, { state: "waiting", sent: 0, breaks: 0, overwrite: false, stop: new AbortController() });
    this.#waiting.push(item);
  }

  #next() {
    while (!this.#backoff.isPaused && this.#running.size < PARALLEL && this.#waiting.length > 0) {
      const item = this.#waiting.shift();
      item.state = "running";
      this.#running.add(item);
      this.#tell("started", item);
      this.#run(item).then(
        (state) => this.#settle(item, state),
        (failure) => this.#failed(item, failure),
      );
    }
    if (!this.active) this.#tell("idle");
  }

  async #run(item) {
    if (item.file === null) throw new Error("this file cannot be opened");
    const { signal } = item.stop;
    let conflict = await taken(item.name, signal);
    const wanted = item.name;
    // Number of the last name that "keep both" has tried, 0 before.
    let tried = 0;
    for (;;) {
      // A connection that broke does not say whether the file was stored before.
      if (conflict && item.isUncertain && (await isStored(item, signal))) {
        item.answer = {};
        return "done";
      }
      if (conflict && !item.overwrite) {
        // The next name may be taken as well, which without the right to read only its upload shows.
        const decision = tried > 0 ? "both" : await decide(wanted, item.batch, signal);
        if (signal.aborted) return "cancelled";
        if (decision === "skip") return "skipped";
        item.overwrite = decision === "overwrite";
        if (decision === "both") {
          const other = await free(wanted, signal, Math.max(2, tried + 1));
          if (other === null) throw new Failure({ status: 409, code: "already_exists", message: "all names beside this one are taken" });
          item.name = other.name;
          tried = other.number;
        }
      }
      try {
        item.answer = await put(item, {
          overwrite: item.overwrite, signal,
          progress: (sent) => { item.sent = sent; this.#tell("progress", item); },
        });
        return "done";
      } catch (failure) {
        if (failure.isOutage) {
          item.isUncertain = true;
          // 503 comes from the gateway itself.
          if (failure.status !== 503) item.breaks += 1;
        }
        // Somebody took the name in the meantime.
        if (failure.status !== 409 || item.overwrite) throw failure;
        conflict = true;
      }
    }
  }

  #failed(item, failure) {
    const isBroken = failure.isOutage && item.breaks >= MOST_BREAKS;
    if (failure.isOutage && !isBroken && !item.stop.signal.aborted) {
      this.#running.delete(item);
      Object.assign(item, { state: "waiting", sent: 0 });
      // Last, so that one file that always fails in this way does not keep the others from being stored.
      this.#waiting.push(item);
      this.#backoff.begin(failure);
      this.#tell("postponed", item);
      return;
    }
    // The user does not sign in: the other files fail with this one, or the question would come once for each.
    if (failure.status === 401) {
      for (const other of this.#waiting.splice(0)) this.#record(Object.assign(other, { failure }), "failed");
    }
    item.failure = isBroken ? new Failure({ code: "broken", message: `the connection broke ${MOST_BREAKS} times while this file was sent` }) : failure;
    this.#settle(item, failure.name === "AbortError" ? "cancelled" : "failed");
  }

  #settle(item, state) {
    this.#running.delete(item);
    this.#record(item, state);
    // The gateway has answered.
    if (state !== "cancelled") this.#backoff.reset();
    this.#next();
  }

  #record(item, state) {
    item.state = state;
    if (state === "done") {
      this.total.done += 1;
      this.total.stored += item.size;
      this.total.doneWeight += weight(item);
    } else if (state === "failed") {
      this.failed.add(item);
      this.total.failed += 1;
      this.total.failedWeight += weight(item);
    } else {
      this.total.left += 1;
    }
    this.#tell("settled", item);
  }

  #tell(type, item) {
    this.dispatchEvent(Object.assign(new Event(type), { item }));
  }
}
