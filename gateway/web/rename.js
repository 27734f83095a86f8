// Another name for a file: no byte moves.
import { change } from "./change.js";
import { ask } from "./dialog.js";
import { el, say } from "./dom.js";
import { filePath } from "./names.js";

// Answers whether the file has another name now.
export async function rename(file) {
  const input = el("input", { id: "new-name", type: "text", value: file.name, autocomplete: "off", spellcheck: "false", "data-first": true });
  const overwrite = el("input", { id: "new-name-overwrite", type: "checkbox" });
  const slash = file.name.lastIndexOf("/") + 1;
  const dot = file.name.lastIndexOf(".");
  input.addEventListener("focus", () => input.setSelectionRange(slash, dot > slash ? dot : file.name.length), { once: true });
  const act = async () => {
    if (input.value === file.name) return;
    await change("POST", `${filePath(file.name)}:rename`, file, { json: { to: input.value, overwrite: overwrite.checked } });
  };
  const answer = await ask({
    title: "Rename",
    content: [
      el("label", { for: "new-name" }, "New name, with its folders"), input,
      el("p", { class: "check" }, overwrite, el("label", { for: "new-name-overwrite" }, "Replace a file that has this name")),
    ],
    buttons: [{ label: "Rename", value: true, kind: "primary", act }, { label: "Cancel", value: false }],
  });
  if (answer !== true || input.value === file.name) return false;
  say(`Renamed to ${input.value}`);
  return true;
}
