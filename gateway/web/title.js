// The title of the tab: the folder, and how far uploads are.

let folder = "";
let share = null;

export function ofFolder(name) {
  folder = name;
  draw();
}

// Percent, or null when nothing is uploaded.
export function progress(percent) {
  if (percent === share) return;
  share = percent;
  draw();
}

function draw() {
  const parts = [share === null ? "" : `${share}%`, folder, "C-Store"];
  document.title = parts.filter((part) => part !== "").join(" - ");
}
