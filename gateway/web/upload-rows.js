// Rows of uploads: those that run, and the last that have ended. What is not shown is known to the queue nevertheless.
import { at, el } from "./dom.js";
import { describe } from "./failure.js";
import { bytes, percent } from "./format.js";
import { icon } from "./icons.js";
import { hasViewer, trace } from "./trace.js";

// Rows of uploads that have ended; older ones make room, and failed ones last.
const ROWS = 100;

const rows = new Map();

// Makes the row of an upload that begins. `cancel` is called by its button.
export function begin(item, cancel) {
  drop(item);
  const bar = el("progress", { max: Math.max(1, item.size), value: 0, "aria-label": `Progress of ${item.name}` });
  const text = el("p", { class: "transfer-state" }, "0%");
  const name = el("p", { class: "name" }, item.name);
  const button = el("button", { type: "button", class: "quiet icon-only", "aria-label": `Cancel ${item.name}`, on: { click: cancel } }, icon("close"));
  const row = el("li", { "data-state": "running" }, el("div", { class: "transfer-words" }, name, text), button, bar);
  rows.set(item, { row, bar, text, name, button });
  at("transfer-list").prepend(row);
}

// Shows what became of an upload. `retry` is called by the button of one that failed.
export function end(item, retry) {
  const parts = rows.get(item);
  if (parts) {
    const { row, bar, text, name, button } = parts;
    const focused = document.activeElement === button;
    row.dataset.state = item.state;
    name.textContent = item.name;
    text.replaceChildren(...outcome(item));
    bar.remove();
    button.remove();
    if (item.state === "failed" && item.file !== null) {
      row.append(el("button", { type: "button", class: "quiet", "aria-label": `Try again: ${item.name}`, on: { click: retry } }, "Try again"));
    }
    if (focused) (row.querySelector("button") ?? at("fold")).focus();
  }
  trim();
}

export function drop(item) {
  rows.get(item)?.row.remove();
  rows.delete(item);
}

// Removes the rows of all that have ended.
export function dropEnded() {
  for (const item of [...rows.keys()]) {
    if (item.state !== "running") drop(item);
  }
}

// Draws the progress of what runs.
export function draw() {
  for (const [item, { bar, text }] of rows) {
    if (item.state !== "running" || !item.moved) continue;
    bar.value = Math.min(item.sent, item.size);
    // All sent is not yet all stored: the gateway answers when it is on disk.
    text.textContent = item.sent >= item.size ? "storing" : `${percent(item.sent, item.size)}%`;
  }
}

// The number of failed uploads that have a row.
export const failedShown = () => [...rows.keys()].filter((item) => item.state === "failed").length;

function outcome(item) {
  if (item.state === "failed") return [describe(item.failure)];
  if (item.state !== "done") return [item.state];
  const { size = item.size, new_bytes: fresh, trace_id: id = "" } = item.answer;
  // Tenants other than the default one do not learn which bytes others have stored.
  const shared = typeof fresh === "number" ? size - fresh : 0;
  const already = shared <= 0 ? "" : `, ${fresh === 0 ? "all" : bytes(shared)} of it was stored before`;
  return [`${bytes(size)} stored${already} `, hasViewer() ? trace(id) : null].filter(Boolean);
}

function trim() {
  const ended = [...rows.keys()].filter((item) => item.state !== "running");
  const order = [...ended.filter((item) => item.state !== "failed"), ...ended.filter((item) => item.state === "failed")];
  for (const item of order.slice(0, Math.max(0, ended.length - ROWS))) drop(item);
}
