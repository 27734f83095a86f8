// The page: its parts, and which of them hear of a change.
import * as cluster from "./cluster.js";
import { onContact } from "./contact.js";
import * as files from "./files.js";
import * as signin from "./signin.js";
import * as uploads from "./uploads.js";
import { learn, lock } from "./who.js";

async function ask() {
  // Rows are drawn with the buttons of what is allowed.
  if (await learn()) files.rightsChanged();
}

// Takes back what the page shows of an earlier user, and asks anew.
function reload(isSignedOut) {
  if (isSignedOut) {
    lock();
    files.forget();
    uploads.forget();
  }
  ask();
  files.refresh();
  cluster.refresh();
}

signin.start(reload);
uploads.start(files.currentFolder, () => Promise.all([files.refresh(), cluster.refresh()]), cluster.uploadFailed);
files.start(cluster.refresh);
cluster.start();
// The gateway may have other tokens after a restart.
onContact((away) => { if (!away) ask(); });
cluster.refresh();
ask();
