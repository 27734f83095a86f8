// Uploads on the page: where they come from, how far they are, what became of each.
import { at, el, say } from "./dom.js";
import { AT_MOST, ofDrop, ofInput } from "./drop.js";
import { describe, show } from "./failure.js";
import { bytes, count, percent } from "./format.js";
import { icon } from "./icons.js";
import { trace } from "./trace.js";
import { Transfers } from "./transfers.js";

// Rows of what has ended; older ones make room.
const ROWS = 100;
const REFRESH_MS = 1_000;

const transfers = new Transfers();
const rows = new Map();
let drawing = false;
let told = 0;
let refreshing = 0;
let began = 0;
let onStored = () => {};

// `stored` is called after something was stored, at most once a second; `folder` answers where uploads go.
export function start(folder, stored) {
  onStored = stored;
  const take = (found) => add(found, folder());
  for (const [button, input] of [["choose-files", "file-input"], ["choose-folder", "folder-input"]]) {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      take(ofInput(at(input).files));
      at(input).value = "";
    });
  }
  listenForDrops(take);
  at("cancel-all").addEventListener("click", () => transfers.cancelAll());
  at("retry-all").addEventListener("click", retryAll);
  at("clear").addEventListener("click", clear);
  transfers.addEventListener("started", ({ item }) => begin(item));
  transfers.addEventListener("progress", ({ item }) => { item.moved = true; draw(); });
  transfers.addEventListener("settled", ({ item }) => end(item));
  transfers.addEventListener("idle", idle);
  window.addEventListener("beforeunload", (event) => { if (transfers.active) event.preventDefault(); });
}

function listenForDrops(take) {
  const zone = at("drop");
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  // The whole page takes drops: a file that misses would otherwise replace the page.
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    zone.classList.add("over");
  });
  window.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) zone.classList.remove("over"); });
  window.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    zone.classList.remove("over");
    take(await ofDrop(event.dataTransfer));
  });
}

function add(found, folder) {
  if (found.length > AT_MOST) {
    show("Upload", { code: "too_many", message: `at most ${count(AT_MOST, "file")} at a time; those over it were left out` });
    found.length = AT_MOST;
  }
  if (found.length === 0) {
    say("There is no file in that");
    return;
  }
  at("transfers").hidden = false;
  if (!transfers.active) {
    told = 0;
    began = performance.now();
  }
  say(`Uploading ${count(found.length, "file")}`);
  transfers.add(found.map(({ file, path }) => ({ file, name: folder + path })));
  draw();
}

function begin(item) {
  const bar = el("progress", { max: Math.max(1, item.size), value: 0, "aria-label": `Progress of ${item.name}` });
  const text = el("span", { class: "transfer-state" }, "0%");
  const name = el("span", { class: "name", title: item.name }, item.name);
  const cancel = el("button", { type: "button", class: "quiet icon-only", "aria-label": `Cancel ${item.name}`, on: { click: () => transfers.cancel(item) } }, icon("close"));
  const row = el("li", { "data-state": "running" }, name, text, cancel, bar);
  rows.set(item, { row, bar, text, name, cancel });
  at("transfer-list").prepend(row);
  draw();
}

function end(item) {
  const parts = rows.get(item);
  if (parts) {
    const { row, bar, text, name, cancel } = parts;
    const focused = document.activeElement === cancel;
    row.dataset.state = item.state;
    name.textContent = item.name;
    text.replaceChildren(...outcome(item));
    bar.remove();
    cancel.remove();
    if (item.state === "failed" && item.file !== null) row.append(retryButton(item));
    if (focused) (row.querySelector("button") ?? at("total-text")).focus();
  }
  trim();
  if (item.state === "done") storedSoon();
  draw();
}

function retryButton(item) {
  return el("button", { type: "button", class: "quiet", "aria-label": `Try ${item.name} again`, on: { click: () => retry(item) } }, "Try again");
}

function outcome(item) {
  if (item.state === "failed") return [describe(item.failure)];
  if (item.state !== "done") return [item.state];
  const { size = item.size, new_bytes: fresh, trace_id: id = "" } = item.answer;
  // Who may not know what others have stored is not told.
  const shared = typeof fresh === "number" ? size - fresh : 0;
  const already = shared <= 0 ? "" : `, ${fresh === 0 ? "all" : bytes(shared)} of it there already`;
  return [`${bytes(size)} stored${already} `, trace(id)].filter(Boolean);
}

function retry(item) {
  rows.get(item)?.row.remove();
  rows.delete(item);
  transfers.again(item);
}

function retryAll() {
  for (const item of [...rows.keys()].filter((item) => item.state === "failed" && item.file !== null)) retry(item);
}

function clear() {
  for (const [item, { row }] of rows) {
    if (item.state === "running") continue;
    row.remove();
    rows.delete(item);
  }
  if (rows.size === 0) {
    at("transfers").hidden = true;
    at("choose-files").focus();
  }
}

// What failed is kept longest.
function trim() {
  const ended = [...rows.keys()].filter((item) => item.state !== "running");
  const order = [...ended.filter((item) => item.state !== "failed"), ...ended.filter((item) => item.state === "failed")];
  for (const item of order.slice(0, Math.max(0, ended.length - ROWS))) {
    rows.get(item).row.remove();
    rows.delete(item);
  }
}

function storedSoon() {
  refreshing ||= setTimeout(() => {
    refreshing = 0;
    onStored();
  }, REFRESH_MS);
}

function idle() {
  const { files, done, failed, left } = transfers.total;
  if (files === 0) return;
  const parts = [`${count(done, "file")} stored`];
  if (failed > 0) parts.push(`${failed} failed`);
  if (left > 0) parts.push(`${left} left out`);
  say(parts.join(", "));
  draw();
}

// Once a frame at most, however many events there are.
function draw() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    drawNow();
  }, 50);
}

function drawNow() {
  const { files, bytes: all, done, failed, left } = transfers.total;
  for (const [item, { bar, text }] of rows) {
    if (item.state !== "running" || !item.moved) continue;
    bar.value = Math.min(item.sent, item.size);
    // All sent is not yet all stored: the gateway answers when it is on disk.
    text.textContent = item.sent >= item.size ? "storing" : `${percent(item.sent, item.size)}%`;
  }
  const sent = transfers.sent;
  at("total").max = Math.max(1, all);
  at("total").value = transfers.active ? sent : Math.max(1, all);
  const ended = done + failed + left;
  const parts = [`${ended} of ${count(files, "file")}`];
  if (transfers.active) parts.push(`${bytes(sent)} of ${bytes(all)}`, `${bytes(sent / Math.max(0.1, (performance.now() - began) / 1000))}/s`);
  else parts.push(`${done} stored`);
  if (failed > 0) parts.push(`${failed} failed`);
  if (left > 0 && !transfers.active) parts.push(`${left} left out`);
  at("total-text").textContent = parts.join(", ");
  at("cancel-all").hidden = !transfers.active;
  at("clear").hidden = transfers.active;
  const shown = [...rows.keys()].filter((item) => item.state === "failed").length;
  at("retry-all").hidden = transfers.active || shown === 0;
  at("more-failed").hidden = failed <= shown;
  at("more-failed").textContent = `${count(Math.max(0, failed - shown), "more upload")} failed and had no room here.`;
  announce(percent(sent, all));
}

// Quarters are told aloud; each percent would talk without end.
function announce(share) {
  const quarter = Math.floor(share / 25);
  if (!transfers.active || quarter <= told || quarter >= 4) return;
  told = quarter;
  say(`${quarter * 25} percent uploaded`);
}
