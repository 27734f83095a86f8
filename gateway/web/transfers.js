// The queue of uploads: three at a time, each with its state. It knows nothing of the page.
import { decide, free, taken } from "./conflict.js";
import { put } from "./transfer.js";

const PARALLEL = 3;

// waiting -> running -> done | failed | skipped | cancelled; failed -> waiting, when it is tried again.
export class Transfers extends EventTarget {
  #waiting = [];
  #running = new Set();
  // Of the uploads since there was nothing to do.
  total = { files: 0, bytes: 0, settledBytes: 0, done: 0, failed: 0, left: 0 };

  get active() {
    return this.#running.size + this.#waiting.length > 0;
  }

  get sent() {
    let sent = this.total.settledBytes;
    for (const item of this.#running) sent += Math.min(item.sent, item.size);
    return sent;
  }

  // `found` are {file, name}.
  add(found) {
    const batch = {};
    this.#begin();
    for (const { file, name } of found) this.#queue({ file, name, batch, size: file?.size ?? 0 });
    this.#next();
  }

  again(item) {
    this.#begin();
    this.#queue({ file: item.file, name: item.name, batch: {}, size: item.size });
    this.#next();
  }

  cancel(item) {
    if (item.state === "running") item.stop.abort();
  }

  cancelAll() {
    const waiting = this.#waiting.splice(0);
    for (const item of waiting) this.#settle(item, "cancelled");
    for (const item of [...this.#running]) item.stop.abort();
  }

  #begin() {
    if (!this.active) this.total = { files: 0, bytes: 0, settledBytes: 0, done: 0, failed: 0, left: 0 };
  }

  #queue(item) {
    Object.assign(item, { state: "waiting", sent: 0, stop: new AbortController() });
    this.total.files += 1;
    this.total.bytes += item.size;
    this.#waiting.push(item);
  }

  #next() {
    while (this.#running.size < PARALLEL && this.#waiting.length > 0) {
      const item = this.#waiting.shift();
      item.state = "running";
      this.#running.add(item);
      this.#tell("started", item);
      this.#run(item).then(
        (state) => this.#settle(item, state),
        (failure) => {
          item.failure = failure;
          this.#settle(item, failure.name === "AbortError" ? "cancelled" : "failed");
        },
      );
    }
    if (!this.active) this.#tell("idle");
  }

  async #run(item) {
    if (item.file === null) throw new Error("this file cannot be opened");
    const { signal } = item.stop;
    let overwrite = false;
    let conflict = await taken(item.name, signal);
    for (;;) {
      if (conflict) {
        const decision = await decide(item.name, item.batch, signal);
        if (signal.aborted) return "cancelled";
        if (decision === "skip") return "skipped";
        overwrite = decision === "overwrite";
        if (decision === "both") item.name = (await free(item.name, signal)) ?? item.name;
      }
      try {
        item.answer = await put(item.file, item.name, {
          overwrite, signal,
          progress: (sent) => { item.sent = sent; this.#tell("progress", item); },
        });
        return "done";
      } catch (failure) {
        // Somebody took the name in the meantime.
        if (failure.status !== 409 || overwrite) throw failure;
        conflict = true;
      }
    }
  }

  #settle(item, state) {
    this.#running.delete(item);
    item.state = state;
    this.total.settledBytes += item.size;
    if (state === "done") this.total.done += 1;
    else if (state === "failed") this.total.failed += 1;
    else this.total.left += 1;
    this.#tell("settled", item);
    this.#next();
  }

  #tell(type, item) {
    this.dispatchEvent(Object.assign(new Event(type), { item }));
  }
}
