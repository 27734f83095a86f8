// Uploads on the page: drops and chosen files, progress, results.
import { isAway } from "./contact.js";
import { at, say } from "./dom.js";
import { AT_MOST, ofDrop, ofInput } from "./drop.js";
import { showFailed } from "./failed.js";
import { show } from "./failure.js";
import { icon } from "./icons.js";
import { bytes, count, number, percent } from "./format.js";
import { drawShares } from "./pictures.js";
import * as title from "./title.js";
import { Transfers } from "./transfers.js";
import * as rows from "./upload-rows.js";
import { may } from "./who.js";

// Least time between two calls of `stored`; a call that takes long is made less often.
const REFRESH_MS = 1_000;
const REFRESH_SHARE = 5;
// Time between two looks at the seconds of a pause.
const TICK_MS = 250;

const transfers = new Transfers();
let drawing = false;
let told = 0;
let refreshing = false;
let isNew = false;
let tick = 0;
let began = { at: 0, sent: 0 };
let wasPaused = false;
let onStored = async () => {};
let onFailed = () => {};

// `folder()` returns the folder of new uploads. `stored()` is called after files were stored, at most once a second, and
// `failed(failure)` for each file that failed.
export function start(folder, stored, failed) {
  onStored = stored;
  onFailed = failed;
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
  at("retry-all").addEventListener("click", () => retry(transfers.retriable));
  at("failed-list").addEventListener("click", () => showFailed([...transfers.failed]));
  at("try-now").addEventListener("click", () => transfers.tryNow());
  at("clear").addEventListener("click", () => {
    clear();
    at("choose-files").focus();
  });
  at("fold").append(icon("fold"));
  at("fold").addEventListener("click", () => fold(at("fold").getAttribute("aria-expanded") === "true"));
  transfers.addEventListener("started", ({ item }) => {
    rows.begin(item, () => transfers.cancel(item));
    draw();
  });
  transfers.addEventListener("progress", ({ item }) => { item.moved = true; draw(); });
  transfers.addEventListener("postponed", ({ item }) => { rows.drop(item); draw(); });
  transfers.addEventListener("settled", ({ item }) => settle(item));
  transfers.addEventListener("idle", idle);
  window.addEventListener("online", () => transfers.tryNow());
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

// Shows one line of the uploads, or each of them.
function fold(isFolded) {
  at("fold").setAttribute("aria-expanded", String(!isFolded));
  at("transfers").classList.toggle("folded", isFolded);
  at("transfer-rows").hidden = isFolded;
}

// Removes the names of uploads that have ended: their user has signed out. Those that run ask for a token.
export function forget() {
  if (!transfers.active) clear();
}

function add(found, folder) {
  if (!may("write") && document.body.dataset.locked === undefined) {
    show("Upload", { code: "permission_denied", message: "this token may not store files" });
    return;
  }
  if (found.length > AT_MOST) {
    show("Upload", { code: "too_many", message: `at most ${count(AT_MOST, "file")} at a time; those over it were left out` });
    found.length = AT_MOST;
  }
  if (found.length === 0) {
    say("There is no file in that");
    return;
  }
  at("transfers").hidden = false;
  at("transfers").closest("section").hidden = false;
  say(`Uploading ${count(found.length, "file")}`);
  const starts = !transfers.active;
  transfers.add(found.map(({ file, path }) => ({ file, name: folder + path })));
  if (starts) begin();
  draw();
}

function retry(items) {
  const starts = !transfers.active;
  items.forEach(rows.drop);
  transfers.retry(items);
  if (starts) begin();
  draw();
}

// Starts to measure the rate anew.
function begin() {
  told = 0;
  began = { at: performance.now(), sent: transfers.sent };
}

function settle(item) {
  rows.end(item, () => retry([item]));
  if (item.state === "done") storedSoon();
  if (item.state === "failed") onFailed(item.failure);
  draw();
}

function clear() {
  transfers.clear();
  rows.dropEnded();
  at("transfers").hidden = true;
}

async function storedSoon() {
  isNew = true;
  if (refreshing) return;
  refreshing = true;
  while (isNew) {
    await pause(REFRESH_MS);
    isNew = false;
    const from = performance.now();
    await onStored();
    await pause((performance.now() - from) * REFRESH_SHARE);
  }
  refreshing = false;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function idle() {
  if (transfers.total.files === 0) return;
  say(summary(transfers.total));
  draw();
}

function summary({ files, done, failed, left }) {
  const parts = [`${number(done)} of ${count(files, "file")} stored`];
  if (failed > 0) parts.push(`${number(failed)} failed`);
  if (left > 0) parts.push(`${number(left)} left out`);
  return parts.join(", ");
}

// Redraws at most once in 50 ms.
function draw() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    drawNow();
  }, 50);
}

function drawNow() {
  rows.draw();
  const { total, sent, active, failed } = transfers;
  const { done, failed: lost } = transfers.shares;
  drawShares(at("total"), done, lost);
  at("total").dataset.outcome = active ? "running" : failed.size > 0 ? "failed" : "ended";
  const parts = [summary(total)];
  if (active) {
    const rate = Math.max(0, sent - began.sent) / Math.max(0.1, (performance.now() - began.at) / 1000);
    parts.push(`${bytes(sent)} of ${bytes(total.bytes)}`);
    if (transfers.pause === null) parts.push(`${bytes(rate)}/s`);
  }
  at("total-text").textContent = parts.join(", ");
  title.progress(active ? percent(done, 1) : null);
  at("cancel-all").hidden = !active;
  at("clear").hidden = active;
  at("failed-list").hidden = failed.size === 0;
  at("retry-all").hidden = transfers.retriable.length === 0;
  const hidden = failed.size - rows.failedShown();
  at("more-failed").hidden = hidden <= 0;
  at("more-failed").textContent = `${count(Math.max(0, hidden), "more upload")} failed; the list of names has all of them.`;
  drawPause();
  announce(percent(done, 1));
}

function drawPause() {
  const { pause: paused } = transfers;
  at("pause").hidden = paused === null;
  if (paused !== null) {
    const what = paused.failure.status === 503 ? `The gateway takes no files now (${paused.failure.message})` : isAway() ? "Gateway away" : "Connection broken";
    at("pause-text").textContent = `${what}, trying again ${paused.seconds > 0 ? `in ${paused.seconds} s` : "now"}. All files wait, none is lost.`;
    at("try-now").hidden = paused.seconds === 0;
    clearTimeout(tick);
    tick = setTimeout(draw, TICK_MS);
  }
  // Screen readers hear the begin and the end of a pause, not each second.
  if ((paused !== null) !== wasPaused) say(wasPaused ? "Uploads go on" : "Uploads pause: the gateway does not take files. They go on by themselves.");
  wasPaused = paused !== null;
}

// Quarters are told aloud; each percent would talk without end.
function announce(share) {
  const quarter = Math.floor(share / 25);
  if (!transfers.active || quarter <= told || quarter >= 4) return;
  told = quarter;
  say(`${quarter * 25} percent uploaded`);
}
