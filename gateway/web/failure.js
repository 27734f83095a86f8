// Failures, as people see them: what was tried, what is wrong, and the code and trace id to ask with.
import { token } from "./api.js";
import { at, el } from "./dom.js";
import { icon } from "./icons.js";
import { trace } from "./trace.js";

const AT_MOST = 5;

// Texts of the gateway that are made for programs, in words for people.
const TEXTS = {
  unauthenticated: () => (token() === "" ? "Sign in first: this gateway asks for an API token" : "The API token is not valid: it is mistyped, expired or revoked"),
  network: () => "No answer from the gateway",
  full: (failure) => `The store is full, so nothing more can be stored (${failure.message})`,
  already_exists: () => "There is already a file of this name",
};

// The sentence of a failure.
export function sentence(failure) {
  const text = TEXTS[failure.code]?.(failure) ?? (failure.message || String(failure));
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// The parts of a failure, for a row or a dialog.
export function describe(failure) {
  const id = failure.traceId ? trace(failure.traceId) : null;
  return el("span", { class: "failure" },
    el("span", { class: "failure-text" }, sentence(failure)), " ",
    el("span", { class: "failure-code" }, "(", el("code", {}, failure.code ?? failure.name ?? "error"), id && ", ", id, ")"));
}

// Shows a failure above the page until it is dismissed; the oldest make room.
export function show(what, failure) {
  const box = el("div", { class: "notice bad" },
    el("p", {}, el("strong", {}, `${what}: `), describe(failure)),
    el("button", { type: "button", class: "quiet icon-only", "aria-label": "Dismiss", on: { click: () => box.remove() } }, icon("close")));
  // The same trouble again replaces what was said of it.
  box.dataset.what = what;
  for (const other of [...at("failures").children]) {
    if (other.dataset.what === what) other.remove();
  }
  at("failures").append(box);
  while (at("failures").children.length > AT_MOST) at("failures").firstChild.remove();
}

// What was told of `what` is over.
export function settled(what) {
  for (const box of [...at("failures").children]) {
    if (box.dataset.what === what) box.remove();
  }
}
