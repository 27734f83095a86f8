// Pauses between tries while the gateway does not take files: 1, 2, 4, 8, 16 and then always 30 seconds.

const FIRST_S = 1;
const MOST_S = 30;

export class Backoff {
  #next = FIRST_S;
  #timer = 0;
  #until = 0;
  #resume;
  // Why there is a pause. Stays until a try succeeds.
  failure = null;

  // `resume` is called at the end of each pause.
  constructor(resume) {
    this.#resume = resume;
  }

  get isPaused() {
    return this.#timer !== 0;
  }

  // Whole seconds until the next try, 0 while one runs.
  get seconds() {
    return this.isPaused ? Math.max(1, Math.ceil((this.#until - performance.now()) / 1000)) : 0;
  }

  // Begins a pause. Failures of requests that were sent before it do not make it longer.
  begin(failure) {
    this.failure = failure;
    if (this.isPaused) return;
    const seconds = Math.min(MOST_S, Math.max(this.#next, failure.retryAfter ?? 0));
    this.#next = Math.min(MOST_S, this.#next * 2);
    this.#until = performance.now() + seconds * 1000;
    this.#timer = setTimeout(() => this.end(), seconds * 1000);
  }

  // Ends the pause now.
  end() {
    if (!this.isPaused) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#resume();
  }

  // Ends the pause after a success. The next one is short again.
  reset() {
    this.#next = FIRST_S;
    this.failure = null;
    this.end();
  }
}
