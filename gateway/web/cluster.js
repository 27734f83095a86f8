// The cluster at a glance: what sharing saves, and each node with its state and fill. Looked at while somebody looks.
import { get } from "./api.js";
import { isAway, onContact } from "./contact.js";
import { at, el } from "./dom.js";
import { describe } from "./failure.js";
import { bytes, count, date, number, percent, time } from "./format.js";
import { bar, labelled, ring } from "./pictures.js";

const EVERY_MS = 10_000;
// Interval while the gateway is away. Uploads that are paused go on after the first response.
const AWAY_MS = 2_000;
// Free bytes below which a disk takes no uploads, as the master judges.
const FULL_BYTES = 16 * 1024;
// Percent of a disk from which it is called nearly full.
const NEARLY_FULL = 90;

// State of a node -> the word for it. The colours of `data-state` go with these words.
const WORDS = { ready: "ready", waiting: "waiting", lost: "lost", full: "full", nearly: "nearly full", hold: "on hold", unknown: "unknown" };

let timer = 0;
// Nodes that refused an upload because they are full, with their free bytes then: a disk keeps a reserve that it does not
// give to uploads, so it may be full before nothing is free.
const refused = new Map();
let free = new Map();

export function start() {
  document.addEventListener("visibilitychange", refresh);
  onContact((away) => {
    if (away) health("away", "No answer");
    refresh();
  });
}

// Takes the failure of an upload. If a node was full, it is shown as full until it has more free bytes again.
export function uploadFailed(failure) {
  const id = /storage node (\S+) is full/.exec(failure.message ?? "")?.[1];
  if (failure.code !== "full" || id === undefined || refused.has(id)) return;
  refused.set(id, free.get(id) ?? 0);
  refresh();
}

// Looks now, and from now on every ten seconds.
export async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  await Promise.all([draw("savings", "/api/stats", savings), draw("nodes", "/api/cluster", nodes)]);
  clearTimeout(timer);
  timer = setTimeout(refresh, isAway() ? AWAY_MS : EVERY_MS);
}

async function draw(id, path, picture) {
  let found;
  try {
    found = picture(await get(path));
    if (id === "nodes") at("nodes-card").hidden = false;
  } catch (failure) {
    // Without the right to see the nodes their card is left out.
    const hidden = failure.status === 403 || failure.status === 401;
    if (id === "nodes") {
      at("nodes-card").hidden = hidden;
      health(isAway() ? "away" : "unknown", hidden ? "" : isAway() ? "No answer" : "State unknown");
    }
    const words = failure.status === 401 ? "Sign in to see this." : hidden ? "Not shown with these rights." : isAway() ? "Shown again when the gateway answers." : describe(failure);
    found = [el("p", { class: "empty" }, words)];
  }
  at(id).replaceChildren(...found);
}

function savings(stats) {
  // The gateway does not tell tenants how much space sharing saves.
  const isTenant = stats.unique_bytes === undefined;
  at("savings-title").textContent = isTenant ? "Your files" : "What is saved";
  if (isTenant) return [el("p", {}, el("strong", {}, bytes(stats.logical_bytes)), ` in ${count(stats.files, "file")}`)];
  // Blocks are shared by all tenants, so they are compared with what all of them have; the ratio tells that.
  const told = stats.dedup_ratio * stats.unique_bytes;
  // Less than this tenant has cannot be what all have: the disks report every second, and their figures are older.
  const own = told <= stats.logical_bytes * 1.002;
  const logical = own ? stats.logical_bytes : told;
  const isOld = told < stats.logical_bytes * 0.998;
  const saved = isOld ? 0 : Math.max(0, logical - stats.unique_bytes);
  const most = Math.max(logical, stats.unique_bytes, stats.physical_bytes);
  return [
    el("div", { class: "savings-head" }, ring(saved, logical, "saved"),
      el("div", {}, el("p", { class: "large" }, stats.files > 0 ? `${stats.dedup_ratio.toFixed(2)} : 1` : "No files"), el("p", { class: "hint" }, `${bytes(saved)} saved: equal contents are stored once`))),
    labelled(own ? "In files" : "In files of all tenants", bytes(logical), logical, most, "logical"),
    labelled("Distinct", bytes(stats.unique_bytes), stats.unique_bytes, most, "unique"),
    labelled("On disks", bytes(stats.physical_bytes), stats.physical_bytes, most, "physical"),
    el("p", { class: "hint" }, `${count(stats.files, "file")}, ${count(stats.blocks, "block")}, ${bytes(stats.free_bytes)} free of ${bytes(stats.capacity_bytes)}`),
    stats.pending_releases > 0 ? el("p", { class: "hint" }, `The space of ${count(stats.pending_releases, "deleted file")} is still being freed.`) : null,
  ].filter(Boolean);
}

function nodes(cluster) {
  free = new Map(cluster.nodes.map((node) => [node.node_id, node.free_bytes]));
  for (const [id, bytes] of refused) {
    if (!(free.get(id) <= bytes)) refused.delete(id);
  }
  const states = cluster.nodes.map(stateOf);
  const of = (state) => cluster.nodes.filter((_, index) => states[index] === state);
  const names = (found) => `${found.slice(0, 2).map((node) => node.node_id).join(", ")}${found.length > 2 ? ` and ${number(found.length - 2)} more` : ""}`;
  const [lost, full, hold] = [of("lost"), of("full"), of("hold")];
  // The worst of it, as there is room for one.
  if (lost.length > 0) health("lost", `${names(lost)} ${lost.length === 1 ? "is" : "are"} lost`);
  else if (full.length > 0) health("full", `${names(full)} ${full.length === 1 ? "is" : "are"} full: no uploads`);
  else if (cluster.waiting_for !== "") health("waiting", `No uploads: ${cluster.waiting_for}`);
  else if (hold.length > 0) health("hold", `${names(hold)} on hold: nothing is freed there`);
  else if (cluster.releases_wait_for !== "") health("hold", `Space of deleted files is not freed: ${cluster.releases_wait_for}`);
  else if (of("waiting").length > 0) health("waiting", `${names(of("waiting"))} not ready`);
  else health("ready", "All nodes ready");
  if (cluster.nodes.length === 0) return [el("p", { class: "empty" }, "No node has registered yet.")];
  return [el("ul", { class: "nodes" }, cluster.nodes.map((node, index) => row(node, states[index])))];
}

const share = (node) => percent(node.capacity_bytes - node.free_bytes, node.capacity_bytes);
const doubts = (node) => (node.doubts ?? []).filter((doubt) => !doubt.accepted);

// Returns the worst state that a node is in.
function stateOf(node) {
  if (node.state === "lost") return "lost";
  // A disk frees nothing while something is in doubt.
  if (node.state === "suspect" || doubts(node).length > 0) return "hold";
  // A disk that is not open yet has no segments, and reports no free bytes.
  const isOpen = node.state !== "not_ready" || node.allocated_bytes > 0;
  if (isOpen && node.capacity_bytes > 0 && (node.free_bytes < FULL_BYTES || refused.has(node.node_id))) return "full";
  if (node.state === "not_ready") return "waiting";
  if (node.state !== "ready") return "unknown";
  return node.capacity_bytes > 0 && share(node) >= NEARLY_FULL ? "nearly" : "ready";
}

function row(node, state) {
  const fill = `${bytes(node.physical_bytes)} of data, ${bytes(node.free_bytes)} free of ${bytes(node.capacity_bytes)}`;
  // Room that no upload gets: the reserve of compaction, and dead space until it is compacted.
  const kept = Math.max(0, node.capacity_bytes - node.free_bytes - node.physical_bytes);
  const seen = Date.parse(node.last_seen) || 0;
  const since = `Last seen ${date(seen)}, ${time(seen)}.`;
  const harm = node.in_map ? " Files with data on it cannot be read, and nothing can be uploaded." : "";
  const reason = state === "lost" ? since + harm : node.reason;
  const kind = { lost: "lost", full: "full", nearly: "nearly" }[state] ?? "fill";
  return el("li", {},
    el("p", { class: "node-head" },
      el("strong", {}, node.node_id), el("span", { class: "role" }, node.role),
      el("span", { class: "pill small", "data-state": state }, WORDS[state])),
    reason === "" ? null : el("p", { class: "hint" }, reason),
    ...doubts(node).map((doubt) => el("p", { class: "hint" }, `On hold, nothing is freed: ${doubt.detail} (doubt ${doubt.number})`)),
    ...(node.capacity_bytes > 0 && node.allocated_bytes > 0 ? [
      bar(node.physical_bytes, node.capacity_bytes, kind, `${node.node_id}: ${fill}`, kept),
      el("p", { class: "hint" }, fill),
      el("p", { class: "hint" }, `${bytes(kept)} are reserve and dead space. Its files take ${bytes(node.allocated_bytes)} of the file system, allocated in advance.`),
    ] : []));
}

function health(state, text) {
  const pill = at("health");
  pill.dataset.state = state;
  pill.hidden = text === "";
  // Unchanged words are not said again.
  if (pill.textContent !== text) pill.textContent = text;
}
