// The page: its parts, and who tells whom that something has changed.
import { get } from "./api.js";
import * as cluster from "./cluster.js";
import * as files from "./files.js";
import * as signin from "./signin.js";
import { useViewer } from "./trace.js";
import * as uploads from "./uploads.js";

async function learn() {
  // Without it trace ids are no links, and all else works.
  const told = await get("/api/page").catch(() => ({}));
  useViewer(told.jaeger_url);
}

signin.start(() => {
  learn();
  files.refresh();
  cluster.refresh();
});
uploads.start(files.currentFolder, () => {
  files.refresh();
  cluster.refresh();
});
files.start(cluster.refresh);
cluster.start();
cluster.refresh();
learn();
