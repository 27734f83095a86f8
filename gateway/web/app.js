// The page: its parts, and who tells whom that something has changed.
import * as cluster from "./cluster.js";
import * as files from "./files.js";
import * as signin from "./signin.js";
import * as uploads from "./uploads.js";
import { learn } from "./who.js";

async function ask() {
  // Rows are drawn with the buttons of what is allowed.
  if (await learn()) files.redraw();
}

signin.start(() => {
  ask();
  files.refresh();
  cluster.refresh();
});
uploads.start(files.currentFolder, () => Promise.all([files.refresh(), cluster.refresh()]), cluster.uploadFailed);
files.start(cluster.refresh);
cluster.start();
cluster.refresh();
ask();
