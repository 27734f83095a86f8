// A name that is taken: the user says what to do, for this file or for all that follow.
import { get } from "./api.js";
import { ask } from "./dialog.js";
import { el } from "./dom.js";
import { numbered } from "./names.js";

const NUMBERS = 100;

// Whether there is a file of this name. Asked before the bytes are sent, which would be for nothing. Who may not read is
// told by the upload itself.
export async function taken(name, signal) {
  try {
    const page = await get("/api/files", { query: { prefix: name, limit: "1" }, signal });
    // Names come in the order of their bytes, so the name itself comes before all that begin with it.
    return page.files[0]?.name === name;
  } catch (failure) {
    if (failure.status === 403) return false;
    throw failure;
  }
}

// A name beside the taken one. null when a hundred of them are taken as well.
export async function free(name, signal) {
  for (let n = 2; n <= NUMBERS; n += 1) {
    const other = numbered(name, n);
    if (!(await taken(other, signal))) return other;
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
