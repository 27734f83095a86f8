// Requests to the gateway, with the user's token, and their failures in one shape.
import { heard } from "./contact.js";

const TOKEN = "cstore-token";
// Time within which a request for JSON is answered. Beyond it the gateway counts as away.
const ANSWER_MS = 60_000;

// A request that did not succeed: `code` is one of the words of docs/errors.md, "network" or a word of this page.
export class Failure extends Error {
  constructor({ status = 0, code, message, traceId = "", retryAfter = 0 }) {
    super(message);
    Object.assign(this, { status, code, traceId, retryAfter });
  }

  // Of an answer's status, text and headers. `header` looks one up.
  static ofAnswer(status, text, header) {
    let body = {};
    try {
      body = JSON.parse(text) ?? {};
    } catch {
      // What stands between here and the gateway answers in its own words.
    }
    return new Failure({
      status,
      code: String(body.code ?? body.error?.code ?? `http_${status}`),
      message: String(body.detail ?? body.error?.message ?? `the gateway, or a proxy before it, answered with status ${status}`),
      traceId: String(body.trace_id ?? body.error?.trace_id ?? header("x-cstore-trace-id") ?? ""),
      retryAfter: Math.min(30, Number(header("retry-after")) || 0),
    });
  }

  static ofNetwork() {
    return new Failure({ code: "network", message: "no answer from the gateway" });
  }

  // Failures of the gateway or of what it needs, not of the request: the same request may succeed later.
  get isOutage() {
    return this.code === "network" || (this.status >= 502 && this.status <= 504);
  }
}

// Returns the token of this tab, or else the one that was kept on this computer. It is sent nowhere but to this gateway.
export const token = () => sessionStorage.getItem(TOKEN) ?? localStorage.getItem(TOKEN) ?? "";

// True if the token that is used stays when the tab is closed.
export const isKept = () => sessionStorage.getItem(TOKEN) === null && localStorage.getItem(TOKEN) !== null;

// Keeps a token on this computer if `stays`, otherwise until this tab is closed. The earlier one is forgotten in both
// places. An empty token signs out.
export function keepToken(value, stays = false) {
  const keep = (storage, given) => (given === "" ? storage.removeItem(TOKEN) : storage.setItem(TOKEN, given));
  declined = null;
  keep(localStorage, stays ? value : "");
  keep(sessionStorage, stays ? "" : value);
}

// Calls `listener` each time that another tab has changed the token that this tab uses.
export function onTokenOfOtherTab(listener) {
  window.addEventListener("storage", ({ storageArea, key }) => {
    const isOurs = storageArea === localStorage && (key === TOKEN || key === null);
    if (isOurs && sessionStorage.getItem(TOKEN) === null) listener();
  });
}

export const authorization = (shown) => (shown === "" ? {} : { authorization: `Bearer ${shown}` });

let asking = null;
// The token with which the user did not want to sign in again. Requests that the page repeats by itself ask no second time.
let declined = null;
let askForToken = async () => false;

// `ask(failure)` asks the user for another token and answers whether there is one.
export function onUnauthenticated(ask) {
  askForToken = ask;
}

// Whether a request that was refused with the token `used` is worth another try. However many are refused together, the
// user is asked once.
export async function renewed(failure, used) {
  if (token() !== used) return true;
  if (declined === used) return false;
  asking ??= askForToken(failure).finally(() => {
    asking = null;
  });
  const isThere = await asking;
  if (!isThere) declined = used;
  return isThere;
}

// The answer, when it is a good one. `within` bounds each try, in milliseconds; the time in which the user types a token
// does not count.
export async function call(method, path, { query = {}, headers = {}, json, signal, within } = {}) {
  const search = new URLSearchParams(query).toString();
  const body = json === undefined ? undefined : JSON.stringify(json);
  for (;;) {
    const used = token();
    const sent = { ...headers, ...authorization(used) };
    if (body !== undefined) sent["content-type"] = "application/json";
    const url = search === "" ? path : `${path}?${search}`;
    const signals = [signal, within && AbortSignal.timeout(within)].filter(Boolean);
    const answer = await fetch(url, { method, headers: sent, body, signal: AbortSignal.any(signals) }).catch((error) => {
      if (error.name === "AbortError") throw error;
      heard(0);
      throw Failure.ofNetwork();
    });
    heard(answer.status);
    if (answer.ok) return answer;
    const failure = Failure.ofAnswer(answer.status, await answer.text().catch(() => ""), (name) => answer.headers.get(name));
    if (answer.status !== 401 || !(await renewed(failure, used))) throw failure;
  }
}

// The JSON of an answer.
export async function get(path, options) {
  const answer = await call("GET", path, { ...options, within: ANSWER_MS });
  return answer.json().catch((error) => {
    throw error.name === "AbortError" ? error : Failure.ofNetwork();
  });
}
