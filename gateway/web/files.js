// The list of one folder: folders first, then files in the order of their bytes. More are fetched as the user scrolls.
import { get, token } from "./api.js";
import { onContact } from "./contact.js";
import { at, el, say } from "./dom.js";
import { settled, show } from "./failure.js";
import { fileRow, folderRow } from "./file-rows.js";
import { count } from "./format.js";
import { icon } from "./icons.js";
import { base, folderOfHash, hashOfFolder } from "./names.js";
import * as title from "./title.js";
import { may } from "./who.js";

// Entries of the first page, which must be seen soon, and of each further one, the most that a gateway gives.
const FIRST = 200;
const PAGE = 1000;
// Entries up to which scrolling fetches more by itself. Beyond it the button does.
const BY_ITSELF = 10_000;
// Pixels below the window at which more is fetched, so that nobody waits at the end of the list.
const AHEAD = 1500;
const AGAIN_MS = 3_000;
const WHAT = "The list of files";

const nothing = () => ({ files: [], prefixes: [], next: "" });
const entries = (list) => list.files.length + list.prefixes.length;

let folder = "";
let shown = nothing();
// Rows that are drawn, by what they show. They are kept, because making 3,000 anew after each upload takes too long.
let rows = new Map();
// Number of the last request for a list. Responses to older requests are not shown.
let asked = 0;
let again = 0;
let onChange = () => {};

export const currentFolder = () => folder;

// `changed` is called after this list has changed what is stored.
export function start(changed) {
  onChange = changed;
  window.addEventListener("hashchange", () => enter(true));
  at("more").addEventListener("click", more);
  at("refresh").addEventListener("click", async () => {
    if (await refresh()) say(`${count(shown.files.length, "file")} in the list`);
    onChange();
  });
  new IntersectionObserver(moreByItself, { rootMargin: `${AHEAD}px` }).observe(at("more").parentElement);
  onContact((away) => { if (!away && again !== 0) refresh(); });
  enter(false);
}

// Shows the folder of the address bar. `moved` is true if the user came from another folder: the element that had the
// focus is gone then.
function enter(moved) {
  const wanted = folderOfHash(location.hash);
  if (wanted === null) return;
  folder = wanted;
  at("target").textContent = folder === "" ? "All files" : folder;
  title.ofFolder(folder);
  shown = nothing();
  rows = new Map();
  at("list").replaceChildren();
  crumbs();
  if (moved) {
    current().focus();
    say(folder === "" ? "All files" : `Folder ${base(folder)}`);
  }
  empty("Loading");
  at("more").hidden = true;
  refresh();
}

// Fetches the list again, with as many entries as are shown. Resolves to whether it is shown.
export async function refresh() {
  if (!may("read")) {
    forget();
    return false;
  }
  const wanted = Math.max(FIRST, entries(shown));
  return load(async (isOurs) => {
    const list = nothing();
    do {
      await append(list, Math.min(PAGE, wanted - entries(list)));
    } while (isOurs() && list.next !== "" && entries(list) < wanted);
    return list;
  });
}

// Draws the rows anew, with the buttons that are allowed now.
export function rightsChanged() {
  rows = new Map();
  at("refresh").hidden = !may("read");
  if (may("read") && entries(shown) > 0) draw();
  // A request that runs shows its list with the new rights.
  else if (!may("read") || !isBusy()) refresh();
}

// Removes all rows: their user has signed out, or may not list.
export function forget() {
  asked += 1;
  clearTimeout(again);
  again = 0;
  shown = nothing();
  rows = new Map();
  at("list").replaceChildren();
  at("list").closest("table").setAttribute("aria-busy", "false");
  at("more").hidden = true;
  empty(refused());
}

const refused = () => (token() === "" ? "Sign in to see the files." : may("write") ? "This token may store files, but not list them." : "This token may not list files.");

async function more() {
  const list = { files: [...shown.files], prefixes: [...shown.prefixes], next: shown.next };
  const isThere = await load(async () => {
    await append(list, PAGE);
    return list;
  });
  if (isThere) say(`${count(shown.files.length, "file")} in the list`);
}

const isBusy = () => at("list").closest("table").getAttribute("aria-busy") === "true";

function moreByItself() {
  if (isBusy() || again !== 0 || shown.next === "" || entries(shown) >= BY_ITSELF) return;
  if (at("more").getBoundingClientRect().top < window.innerHeight + AHEAD) more();
}

async function append(list, limit) {
  const query = { delimiter: "/", prefix: folder, limit: Math.max(1, limit) };
  if (list.next !== "") query.page_token = list.next;
  const page = await get("/api/files", { query });
  list.files.push(...page.files);
  list.prefixes.push(...page.prefixes);
  list.next = page.next_page_token ?? "";
}

// Shows the list that `fetched` resolves to. Its argument returns false once a newer list was asked for.
async function load(fetched) {
  asked += 1;
  const mine = asked;
  clearTimeout(again);
  again = 0;
  const table = at("list").closest("table");
  table.setAttribute("aria-busy", "true");
  try {
    const list = await fetched(() => mine === asked);
    if (mine !== asked) return false;
    shown = list;
    settled(WHAT);
    draw();
    return true;
  } catch (failure) {
    if (mine !== asked) return false;
    failed(failure);
    return false;
  } finally {
    if (mine === asked) {
      table.setAttribute("aria-busy", "false");
      moreByItself();
    }
  }
}

function failed(failure) {
  // No token, or one that may only upload, is no failure: the place of the list says so.
  const isRefused = failure.status === 403 || (failure.status === 401 && token() === "");
  if (isRefused) empty(refused());
  else show(WHAT, failure);
  // A gateway that is away or starting comes back, and then nobody should have to ask for the list.
  const comesBack = failure.isOutage;
  if (comesBack) again = setTimeout(refresh, AGAIN_MS);
  if (!isRefused && entries(shown) === 0) empty(comesBack ? "The list is shown as soon as the gateway answers." : "The list could not be loaded.");
}

function draw() {
  const focused = document.activeElement?.dataset?.key;
  const before = rows;
  rows = new Map();
  const row = (key, made) => {
    const drawn = before.get(key) ?? made();
    rows.set(key, drawn);
    return drawn;
  };
  at("list").replaceChildren(
    ...shown.prefixes.map((prefix) => row(`/${prefix}`, () => folderRow(prefix))),
    ...shown.files.map((file) => row(`${file.name}\n${file.etag}\n${file.modified_ms}`, () => fileRow(file, afterwards))));
  at("more").hidden = shown.next === "";
  const none = entries(shown) === 0;
  at("drop").classList.toggle("tall", none && folder === "");
  empty(none ? (folder === "" ? "Nothing is stored yet. Drop some files above." : "This folder is empty.") : "");
  if (focused === undefined || document.activeElement?.dataset?.key === focused) return;
  // Moving the rows took the focus: it returns to its row, or to the folder's name if the row is gone.
  const same = [...document.querySelectorAll("[data-key]")].find((element) => element.dataset.key === focused);
  (same ?? current()).focus({ preventScroll: same !== undefined });
}

async function afterwards(change) {
  if (!(await change)) return;
  await refresh();
  onChange();
}

// The link of the folder that is shown.
const current = () => at("crumbs").querySelector("[aria-current]");

function crumbs() {
  const segments = folder.split("/").filter((segment) => segment !== "");
  const steps = [el("a", { href: "#/", "aria-current": segments.length === 0 ? "page" : null }, icon("home"), "All files")];
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
