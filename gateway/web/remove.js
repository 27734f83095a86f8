// Removal, after a look at what it would free: blocks that other files use stay.
import { get } from "./api.js";
import { change } from "./change.js";
import { ask } from "./dialog.js";
import { el, say } from "./dom.js";
import { describe } from "./failure.js";
import { bytes, count } from "./format.js";
import { base, filePath } from "./names.js";
import { bar } from "./pictures.js";

// Answers whether the file is gone.
export async function remove(file) {
  const preview = el("div", { class: "preview", role: "status" }, el("p", {}, "Counting what this would free"));
  const look = new AbortController();
  explain(file, preview, look.signal);
  const act = () => change("DELETE", filePath(file.name), file);
  const answer = await ask({
    title: `Delete ${base(file.name)}?`,
    content: [el("p", { class: "name" }, file.name), preview],
    buttons: [{ label: "Delete", value: true, kind: "danger", act }, { label: "Keep", value: false }],
  });
  look.abort();
  if (answer !== true) return false;
  say(`${base(file.name)} is deleted`);
  return true;
}

async function explain(file, preview, signal) {
  try {
    preview.replaceChildren(...told(await get(filePath(file.name), { query: { explain: "freed" }, signal })));
  } catch (failure) {
    if (failure.name === "AbortError") return;
    // Named tenants must not learn what they share with others; they may delete nevertheless.
    const text = failure.status === 403
      ? el("p", {}, `The file has ${bytes(file.size)}. Only operators see how much of it other files use too.`)
      : el("p", {}, "What this would free is not known: ", describe(failure));
    preview.replaceChildren(text);
  }
}

function told(freed) {
  if (freed.other_names > 0) {
    return [
      el("p", {}, el("strong", {}, "This frees nothing."), ` ${count(freed.other_names, "other name")} ${freed.other_names === 1 ? "has" : "have"} the same stored file.`),
    ];
  }
  const parts = [
    el("p", {}, "This frees ", el("strong", {}, bytes(freed.freed_bytes)), ` of the file's ${bytes(freed.size)}.`),
    bar(freed.freed_bytes, freed.unique_bytes, "freed", `${bytes(freed.freed_bytes)} of ${bytes(freed.unique_bytes)} stored would be freed`),
  ];
  if (freed.shared_bytes > 0) {
    parts.push(el("p", {}, `${bytes(freed.shared_bytes)} in ${count(freed.shared_blocks, "block")} stay: other files use them too.`));
  }
  return parts;
}
