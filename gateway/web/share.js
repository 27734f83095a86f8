// A link to a file, into the clipboard where the browser lets us, else to be copied by hand.
import { ask } from "./dialog.js";
import { el, say } from "./dom.js";
import { base, filePath } from "./names.js";

export async function copyLink(file) {
  const url = `${location.origin}${filePath(file.name)}`;
  try {
    await navigator.clipboard.writeText(url);
    say(`The link to ${base(file.name)} is copied`);
    return true;
  } catch {
    // Over plain HTTP there is no clipboard.
    const input = el("input", { id: "link", readonly: true, value: url, "data-first": true, on: { focus: () => input.select() } });
    await ask({
      title: "Copy the link",
      content: [el("label", { for: "link" }, `Link to ${base(file.name)}`), input],
      buttons: [{ label: "Close", value: null, kind: "primary" }],
    });
    return false;
  }
}
