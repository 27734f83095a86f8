// Failures, as people see them: what was tried, the text, the code and the trace id to ask with.
import { at, el } from "./dom.js";
import { icon } from "./icons.js";
import { trace } from "./trace.js";

const AT_MOST = 5;

// The parts of a failure, for a row or a dialog.
export function describe(failure) {
  return el("span", { class: "failure" },
    el("span", { class: "failure-text" }, failure.message || String(failure)), " ",
    el("code", {}, failure.code ?? failure.name ?? "error"), " ",
    failure.traceId ? trace(failure.traceId) : null);
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
