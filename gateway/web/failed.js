// The names of all uploads that failed, as a list that can be copied.
import { Failure } from "./api.js";
import { ask } from "./dialog.js";
import { el, say } from "./dom.js";
import { sentence } from "./failure.js";
import { count, number } from "./format.js";

// Different reasons that are shown; the rest is counted.
const REASONS = 5;

export async function showFailed(items) {
  const list = el("textarea", { id: "failed-names", readonly: true, rows: 10, spellcheck: "false", "data-first": true });
  list.value = items.map((item) => item.name).join("\n");
  list.setSelectionRange(0, 0);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(list.value);
      say(`${count(items.length, "name")} copied`);
    } catch {
      // Over plain HTTP there is no clipboard.
      list.select();
      throw new Failure({ code: "no_clipboard", message: "the browser does not let this page copy; the names are selected, so copy them by hand" });
    }
  };
  await ask({
    title: `${count(items.length, "upload")} failed`,
    content: [reasons(items), el("label", { for: "failed-names" }, "Their names, one a line"), list],
    buttons: [{ label: "Copy names", value: "copy", kind: "primary", act: copy }, { label: "Close", value: null }],
  });
}

function reasons(items) {
  const counts = new Map();
  for (const { failure } of items) {
    const text = sentence(failure);
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  const order = [...counts].sort(([, one], [, other]) => other - one);
  const rest = order.slice(REASONS).reduce((sum, [, many]) => sum + many, 0);
  return el("ul", { class: "reasons" },
    order.slice(0, REASONS).map(([text, many]) => el("li", {}, el("strong", {}, number(many)), ` ${text}`)),
    rest > 0 ? el("li", {}, el("strong", {}, number(rest)), " for other reasons") : null);
}
