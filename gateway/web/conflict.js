// A name that is taken: the user says what to do, for this file or for all that follow.
import { get } from "./api.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";
import { numbered } from "./names.js";
import { may } from "./who.js";

const NUMBERS = 100;

// Resolves to whether there is a file of this name. Called BEFORE its bytes are sent: those of a refused upload are wasted.
// Without the right to read only the upload itself shows a taken name, so this resolves to false if the gateway responds.
export async function taken(name, signal) {
  if (!may("read")) {
    await get("/api/page", { signal });
    return false;
  }
  try {
    const page = await get("/api/files", { query: { prefix: name, limit: "1" }, signal });
    // Names come in the order of their bytes, so the name itself comes before all that begin with it.
    return page.files[0]?.name === name;
  } catch (failure) {
    if (failure.status === 403) return false;
    throw failure;
  }
}

// Resolves to a name beside the taken one, with a number from `first` on: {name, number}. null if all numbers are taken.
export async function free(name, signal, first = 2) {
  for (let n = first; n <= NUMBERS; n += 1) {
    const other = numbered(name, n);
    if (!(await taken(other, signal))) return { name: other, number: n };
  }
  return null;
}

// What the user wants: "overwrite", "both" or "skip". One of these for a whole batch is asked once.
export async function decide(name, batch, signal) {
  if (batch.decision) return batch.decision;
  const all = el("input", { id: "for-all", type: "checkbox" });
  // While this question waited for its turn, the one before may have been answered for all.
  const answer = await ask({
    unless: () => batch.decision,
    signal,
    title: "There is already a file of this name",
    content: [
      el("p", { class: "name" }, name),
      el("p", { class: "check" }, all, el("label", { for: "for-all" }, "Do the same with all others of these uploads")),
    ],
    buttons: [
      { label: "Keep both", value: "both", kind: "primary" },
      { label: "Overwrite", value: "overwrite" },
      { label: "Skip", value: "skip" },
    ],
  });
  const decision = answer ?? "skip";
  if (all.checked) batch.decision = decision;
  return decision;
}
