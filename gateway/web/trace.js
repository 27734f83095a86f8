// Trace ids, as links where the gateway knows a place to look at them.
import { el } from "./dom.js";

let viewer = null;

export function useViewer(url) {
  viewer = typeof url === "string" && /^https?:/.test(url) ? url : null;
}

// True if traces have links. Otherwise only failures show their trace ids, which operators can look up.
export const hasViewer = () => viewer !== null;

export function trace(id) {
  if (!/^[0-9a-f]{32}$/.test(id) || /^0+$/.test(id)) return null;
  const short = `trace ${id.slice(0, 8)}`;
  if (viewer === null) return el("code", { class: "trace", title: `trace ${id}` }, short);
  return el("a", {
    class: "trace", href: `${viewer}/trace/${id}`, target: "_blank", rel: "noopener noreferrer",
    title: `trace ${id}`, "aria-label": `Trace ${id.slice(0, 8)}, opens in a new tab`,
  }, short);
}
