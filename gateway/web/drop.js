// What was dropped or chosen, as files with their paths; folders are walked.

// Files of one drop or choice; those beyond it are left out, and the page says so.
export const AT_MOST = 10_000;

// {file, path} of a drop. The entries must be taken at once: the browser forgets them when the event is over.
export async function ofDrop(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...transfer.files];
  if (entries.length === 0) return ofInput(plain);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

// {file, path} of an input; those of a folder know where they were in it.
export function ofInput(files) {
  return [...files].slice(0, AT_MOST + 1).map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

async function walk(entry, found) {
  if (found.length > AT_MOST) return;
  const path = entry.fullPath.replace(/^\/+/, "");
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(null)));
    // A file that cannot be opened is tried nevertheless, so that it is seen to fail.
    found.push({ file, path });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A browser hands out a hundred at a time, and none at the end.
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (some.length === 0 || found.length > AT_MOST) return;
    for (const child of some) await walk(child, found);
  }
}
