// The list of one folder: folders first, then files in the order of their bytes, a page at a time.
import { get } from "./api.js";
import { at, el, say } from "./dom.js";
import { prepare } from "./download.js";
import { settled, show } from "./failure.js";
import { bytes, count, date } from "./format.js";
import { icon } from "./icons.js";
import { base, folderOfHash, hashOfFolder } from "./names.js";
import { remove } from "./remove.js";
import { rename } from "./rename.js";
import { copyLink } from "./share.js";

const PAGE = 200;
const MOST = 1000;
const AGAIN_MS = 3_000;
const WHAT = "The list of files";

let folder = "";
let shown = { files: [], prefixes: [], next: "" };
// Answers of an older question are not shown.
let asked = 0;
let again = 0;
let onChange = () => {};

export const currentFolder = () => folder;

// `changed` is called after this list has changed what is stored.
export function start(changed) {
  onChange = changed;
  window.addEventListener("hashchange", enter);
  at("more").addEventListener("click", more);
  at("refresh").addEventListener("click", async () => {
    if (await refresh()) say(`${count(shown.files.length, "file")} in the list`);
    onChange();
  });
  enter();
}

function enter() {
  const wanted = folderOfHash(location.hash);
  if (wanted === null) return;
  folder = wanted;
  at("target").textContent = folder === "" ? "the top folder" : folder;
  document.title = folder === "" ? "C-Store" : `${folder} - C-Store`;
  shown = { files: [], prefixes: [], next: "" };
  at("list").replaceChildren();
  crumbs();
  empty("Loading");
  refresh();
}

// The same again, as much of it as was there. Answers whether it is shown.
export function refresh() {
  const limit = Math.min(MOST, Math.max(PAGE, shown.files.length + shown.prefixes.length));
  return load({ limit }, (page) => {
    shown = { files: page.files, prefixes: page.prefixes, next: page.next_page_token ?? "" };
  });
}

function more() {
  return load({ limit: PAGE, page_token: shown.next }, (page) => {
    shown.files = shown.files.concat(page.files);
    shown.prefixes = shown.prefixes.concat(page.prefixes);
    shown.next = page.next_page_token ?? "";
    say(`${count(shown.files.length, "file")} in the list`);
  });
}

async function load(query, take) {
  asked += 1;
  const mine = asked;
  clearTimeout(again);
  const table = at("list").closest("table");
  table.setAttribute("aria-busy", "true");
  try {
    const page = await get("/api/files", { query: { delimiter: "/", prefix: folder, ...query } });
    if (mine !== asked) return false;
    take(page);
    settled(WHAT);
    draw();
    return true;
  } catch (failure) {
    if (mine !== asked) return false;
    show(WHAT, failure);
    if (shown.files.length + shown.prefixes.length === 0) empty("The list is not there. Refresh tries again.");
    // A gateway that is away or starting comes back, and then nobody should have to ask for the list.
    if (failure.status === 0 || failure.status === 503) again = setTimeout(refresh, AGAIN_MS);
    return false;
  } finally {
    if (mine === asked) table.setAttribute("aria-busy", "false");
  }
}

function draw() {
  const focused = document.activeElement?.dataset?.key;
  at("list").replaceChildren(...shown.prefixes.map(folderRow), ...shown.files.map(fileRow));
  at("more").hidden = shown.next === "";
  const none = shown.files.length + shown.prefixes.length === 0;
  empty(none ? (folder === "" ? "Nothing is stored yet. Drop some files above." : "This folder is empty.") : "");
  if (focused === undefined) return;
  // The list is drawn anew: who was at a row is again, and at the head of the list when the row is gone.
  const same = [...document.querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused);
  (same ?? at("files-title")).focus();
}

function folderRow(prefix) {
  const name = base(prefix);
  return el("tr", {},
    el("th", { scope: "row", class: "name-cell" },
      el("a", { href: hashOfFolder(prefix), "data-key": `open ${prefix}` }, icon("folder"), el("span", { class: "name" }, name), el("span", { class: "unseen" }, " folder"))),
    el("td", { class: "number" }), el("td", {}), el("td", {}));
}

function fileRow(file) {
  const name = base(file.name);
  const button = (picture, label, act) => el("button", {
    type: "button", class: "quiet icon-only", title: label, "aria-label": `${label} ${name}`, "data-key": `${label} ${file.name}`,
    on: { click: act },
  }, icon(picture));
  const link = el("a", { class: "button quiet icon-only", title: "Download", "aria-label": `Download ${name}`, "data-key": `Download ${file.name}` }, icon("download"));
  prepare(link, file);
  const copy = button("link", "Copy link to", async () => {
    if (await copyLink(file)) {
      copy.dataset.done = "";
      setTimeout(() => delete copy.dataset.done, 1500);
    }
  });
  return el("tr", { class: "file" },
    el("th", { scope: "row", class: "name-cell", title: file.name }, icon("file"), el("span", { class: "name" }, name)),
    el("td", { class: "number" }, bytes(file.size)),
    el("td", { class: "when" }, el("time", { datetime: new Date(file.modified_ms).toISOString() }, date(file.modified_ms))),
    el("td", { class: "actions" },
      el("div", {}, link, copy,
        button("rename", "Rename", () => afterwards(rename(file))),
        button("remove", "Delete", () => afterwards(remove(file))))));
}

async function afterwards(change) {
  if (!(await change)) return;
  await refresh();
  onChange();
}

function crumbs() {
  const segments = folder.split("/").filter((segment) => segment !== "");
  const steps = [el("a", { href: "#/", "aria-current": segments.length === 0 ? "page" : null }, "Top")];
  segments.forEach((segment, index) => {
    const path = `${segments.slice(0, index + 1).join("/")}/`;
    steps.push(el("a", { href: hashOfFolder(path), "aria-current": index === segments.length - 1 ? "page" : null }, segment));
  });
  at("crumbs").replaceChildren(el("ol", {}, steps.map((step) => el("li", {}, step))));
}

function empty(text) {
  at("empty").textContent = text;
  at("empty").hidden = text === "";
  at("list").closest("table").hidden = text !== "";
}
