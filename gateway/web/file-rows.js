// Rows of the list: folders, and files with what can be done with them.
import { get, token } from "./api.js";
import { el, say } from "./dom.js";
import { prepare } from "./download.js";
import { show } from "./failure.js";
import { bytes, count, date, time } from "./format.js";
import { icon } from "./icons.js";
import { base, filePath, hashOfFolder } from "./names.js";
import { remove } from "./remove.js";
import { rename } from "./rename.js";
import { copyLink } from "./share.js";
import { may, seesCluster } from "./who.js";

// Types that browsers show by themselves.
const SHOWN = /^(image|text|audio|video)\/|^application\/(json|pdf)\b/;

// Returns the row of a folder. Its size is counted when the user asks for it: the gateway has to look at each of its files.
export function folderRow(prefix) {
  const name = base(prefix);
  const files = el("td", { class: "when" });
  const size = el("button", { type: "button", class: "quiet size", title: "Count the files in this folder", "aria-label": `Size of ${name}`, "data-key": `Size ${prefix}` }, "Size");
  size.addEventListener("click", () => countFolder(prefix, size, files));
  return el("tr", { class: "folder" },
    el("th", { scope: "row", class: "name-cell" },
      el("a", { href: hashOfFolder(prefix), "data-key": `open ${prefix}` }, icon("folder"), el("span", { class: "name" }, name), el("span", { class: "unseen" }, " folder"))),
    el("td", { class: "number" }, seesCluster() ? size : null), files, el("td", { class: "actions" }));
}

async function countFolder(prefix, size, files) {
  // A disabled button would lose the focus.
  if (size.getAttribute("aria-busy") === "true") return;
  size.setAttribute("aria-busy", "true");
  try {
    const found = await get("/api/usage", { query: { prefix } });
    size.textContent = bytes(found.logical_bytes);
    size.title = `Counted at ${time(Date.now())}. Press to count again`;
    size.setAttribute("aria-label", `${size.textContent} in ${base(prefix)}, count again`);
    files.textContent = count(found.files, "file");
    say(`${base(prefix)}: ${files.textContent}, ${size.textContent}`);
  } catch (failure) {
    show(`Size of ${base(prefix)}`, failure);
  } finally {
    size.removeAttribute("aria-busy");
  }
}

// Calls `changed(promise)` when the user changes the file. The promise resolves to whether it was changed.
export function fileRow(file, changed) {
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
    el("th", { scope: "row", class: "name-cell", title: file.name }, nameLink(file, name)),
    el("td", { class: "number" }, bytes(file.size)),
    el("td", { class: "when" }, when(file.modified_ms)),
    el("td", { class: "actions" },
      el("div", {}, link, copy,
        may("write") && may("delete") ? button("rename", "Rename", () => changed(rename(file))) : null,
        may("delete") ? button("remove", "Delete", () => changed(remove(file))) : null)));
}

function when(milliseconds) {
  const [day, clock] = [date(milliseconds), time(milliseconds)];
  return el("time", { datetime: new Date(milliseconds).toISOString(), title: `${day}, ${clock}` }, day, el("span", { class: "clock" }, `, ${clock}`));
}

// Returns the link of a name. It opens what a browser can show in a new tab, so that uploads go on in this one, and
// downloads everything else. A link cannot send a token, so with a token it always downloads.
function nameLink(file, name) {
  const isShown = token() === "" && SHOWN.test(file.content_type ?? "");
  const words = [icon("file"), el("span", { class: "name" }, name), el("span", { class: "unseen" }, isShown ? " opens in a new tab" : " is downloaded")];
  const key = `name ${file.name}`;
  if (isShown) return el("a", { href: filePath(file.name), target: "_blank", rel: "noopener noreferrer", "data-key": key }, words);
  const link = el("a", { "data-key": key }, words);
  prepare(link, file);
  return link;
}
