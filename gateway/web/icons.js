// Small pictures for buttons; what they mean is said by the button's label.
import { svg } from "./dom.js";

const PATHS = {
  file: "M6 2h8l4 4v16H6zM14 2v5h4",
  home: "M4 11 12 4l8 7M6 10v10h12V10M10 20v-6h4v6",
  folder: "M3 5h6l2 3h10v11H3z",
  download: "M12 3v12m-5-5 5 5 5-5M4 20h16",
  link: "M10 14a4 4 0 0 0 6 0l3-3a4.2 4.2 0 0 0-6-6l-1 1m2 4a4 4 0 0 0-6 0l-3 3a4.2 4.2 0 0 0 6 6l1-1",
  rename: "m4 20 1-4L16 5l3 3L8 19zM14 7l3 3",
  remove: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5m4-5v5",
  fold: "m6 9 6 6 6-6",
  close: "m6 6 12 12M18 6 6 18",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", width: 20, height: 20, class: "icon", "aria-hidden": "true" },
    svg("path", { d: PATHS[name] }));
}
