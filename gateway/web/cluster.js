// The cluster at a glance: what sharing saves, and each node with its state and fill. Looked at while somebody looks.
import { get } from "./api.js";
import { at, el } from "./dom.js";
import { describe } from "./failure.js";
import { bytes, count, number } from "./format.js";
import { bar, labelled, ring } from "./pictures.js";

const EVERY_MS = 10_000;
const STATES = { ready: "ready", not_ready: "not ready", lost: "lost", suspect: "suspect", unknown: "unknown" };

let timer = 0;

export function start() {
  document.addEventListener("visibilitychange", refresh);
}

// Looks now, and from now on every ten seconds.
export async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  await Promise.all([draw("savings", "/api/stats", savings), draw("nodes", "/api/cluster", nodes)]);
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY_MS);
}

async function draw(id, path, picture) {
  let found;
  try {
    found = picture(await get(path));
  } catch (failure) {
    if (id === "nodes") health("unknown", failure.status === 403 ? "" : "No answer");
    const hidden = failure.status === 403;
    found = [el("p", { class: "empty" }, hidden ? "Told to the operator only." : describe(failure))];
  }
  at(id).replaceChildren(...found);
}

function savings(stats) {
  const files = el("p", { class: "hint" }, count(stats.files, "file"));
  if (stats.unique_bytes === undefined) {
    return [labelled("Your files", bytes(stats.logical_bytes), stats.logical_bytes, stats.logical_bytes, "logical"), files];
  }
  // Blocks are shared by all tenants, so they are compared with what all of them have; the ratio tells that.
  const told = stats.dedup_ratio * stats.unique_bytes;
  const own = Math.abs(told - stats.logical_bytes) <= told / 500;
  const logical = own ? stats.logical_bytes : told;
  const saved = Math.max(0, logical - stats.unique_bytes);
  const most = Math.max(logical, stats.unique_bytes, stats.physical_bytes);
  return [
    el("div", { class: "savings-head" }, ring(saved, logical, "saved"),
      el("div", {}, el("p", { class: "large" }, `${stats.dedup_ratio.toFixed(2)} : 1`), el("p", { class: "hint" }, `${bytes(saved)} need not be stored`))),
    labelled(own ? "In files" : "In files of all tenants", bytes(logical), logical, most, "logical"),
    labelled("Distinct", bytes(stats.unique_bytes), stats.unique_bytes, most, "unique"),
    labelled("On disks", bytes(stats.physical_bytes), stats.physical_bytes, most, "physical"),
    el("p", { class: "hint" }, `${count(stats.files, "file")}, ${count(stats.blocks, "block")}, ${bytes(stats.free_bytes)} free of ${bytes(stats.capacity_bytes)}`),
    stats.pending_releases > 0 ? el("p", { class: "hint" }, `The space of ${number(stats.pending_releases)} removed is on its way back.`) : null,
  ].filter(Boolean);
}

function nodes(cluster) {
  const ready = cluster.nodes.filter((node) => node.state === "ready").length;
  if (cluster.waiting_for !== "") health("waiting", `Waiting: ${cluster.waiting_for}`);
  if (cluster.releases_wait_for !== "") health("space", `Space does not come back: ${cluster.releases_wait_for}`);
  else if (ready < cluster.nodes.length) health("waiting", `${ready} of ${count(cluster.nodes.length, "node")} ready`);
  else health("ready", "All nodes ready");
  if (cluster.nodes.length === 0) return [el("p", { class: "empty" }, "No node has come yet.")];
  return [el("ul", { class: "nodes" }, cluster.nodes.map(node))];
}

/** Returns true if a disk frees nothing, because something is in doubt. */
function held(node) {
  return (node.doubts ?? []).some((doubt) => !doubt.accepted);
}

function node(node) {
  const used = node.capacity_bytes - node.free_bytes;
  const fill = `${bytes(used)} of ${bytes(node.capacity_bytes)}`;
  return el("li", {},
    el("p", { class: "node-head" },
      el("strong", {}, node.node_id), el("span", { class: "role" }, node.role),
      el("span", { class: "pill small", "data-state": node.state === "ready" && !held(node) ? "ready" : "waiting" }, held(node) ? "on hold" : STATES[node.state] ?? node.state)),
    node.reason === "" ? null : el("p", { class: "hint" }, node.reason),
    ...(node.doubts ?? []).filter((doubt) => !doubt.accepted).map((doubt) =>
      el("p", { class: "hint" }, `On hold, nothing is freed: ${doubt.detail} (doubt ${doubt.number})`)),
    node.capacity_bytes > 0 ? bar(used, node.capacity_bytes, "fill", `${node.node_id} holds ${fill}`) : null,
    node.capacity_bytes > 0 ? el("p", { class: "hint" }, fill) : null);
}

function health(state, text) {
  const pill = at("health");
  pill.dataset.state = state;
  pill.hidden = text === "";
  // Unchanged words are not said again.
  if (pill.textContent !== text) pill.textContent = text;
}
