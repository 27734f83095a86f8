// Downloads. Without a token the browser's own: any size, resumable. With one, the browser cannot be told to send it, so
// the page fetches: small files over memory, larger ones straight to disk where the browser has a door for that, and
// else the page says how it is done with curl. A token is never put into a URL.
import { call, Failure, token } from "./api.js";
import { ask } from "./dialog.js";
import { el, say } from "./dom.js";
import { show } from "./failure.js";
import { bytes } from "./format.js";
import { base, downloadPath } from "./names.js";

const IN_MEMORY = 64 * 1024 * 1024;

// A link when that is enough, as the browser does the rest; a click listener otherwise.
export function prepare(link, file) {
  link.href = downloadPath(file.name);
  link.download = base(file.name);
  link.addEventListener("click", (event) => {
    if (token() === "") return;
    event.preventDefault();
    fetched(file).catch((failure) => {
      if (failure.name !== "AbortError") show(`Download of ${file.name}`, failure);
    });
  });
}

async function fetched(file) {
  if (file.size <= IN_MEMORY) return overMemory(file);
  if (typeof window.showSaveFilePicker === "function") return toDisk(file);
  return byCurl(file);
}

async function overMemory(file) {
  const answer = await call("GET", downloadPath(file.name));
  const blob = await answer.blob().catch(() => { throw Failure.ofNetwork(); });
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: base(file.name), hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  say(`${base(file.name)} is downloaded`);
}

async function toDisk(file) {
  const target = await window.showSaveFilePicker({ suggestedName: base(file.name) });
  const answer = await call("GET", downloadPath(file.name));
  say(`Downloading ${base(file.name)}`);
  // A body that breaks off aborts the writer, and the file at the target stays as it was.
  await answer.body.pipeTo(await target.createWritable()).catch(() => { throw Failure.ofNetwork(); });
  say(`${base(file.name)} is downloaded`);
}

async function byCurl(file) {
  // Encoded paths have quotes of neither kind but the single one, which ends here and stands encoded.
  const url = `${location.origin}${downloadPath(file.name)}`.replaceAll("'", "%27");
  const command = `curl -H "authorization: Bearer $CSTORE_TOKEN" -O -C - '${url}'`;
  await ask({
    title: "Download with curl",
    content: [
      el("p", {}, `With a token this browser can only hold files up to ${bytes(IN_MEMORY)} in memory, and this one has ${bytes(file.size)}. With the token in CSTORE_TOKEN, curl can do it, and resume:`),
      el("pre", { tabindex: "0" }, command),
    ],
    buttons: [{ label: "Close", value: null, kind: "primary" }],
  });
}
