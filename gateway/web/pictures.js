// Pictures of numbers, as SVG. Each says in words what it shows, and none says anything by colour alone.
import { el, svg } from "./dom.js";
import { percent } from "./format.js";

const RADIUS = 42;
const ROUND = 2 * Math.PI * RADIUS;

// A part of a whole, as a bar of full width. `kind` picks the colour. `kept` is drawn paler, after the part.
export function bar(part, whole, kind, label, kept = 0) {
  const percentOf = (value) => (whole > 0 ? Math.min(100, (value / whole) * 100) : 0);
  // A part above 0 is always visible.
  const width = part > 0 ? Math.max(1, percentOf(part)) : 0;
  return svg("svg", { class: `bar-picture ${kind}`, viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("rect", { class: "track", width: 100, height: 10 }),
    kept > 0 ? svg("rect", { class: "kept", x: width.toFixed(2), width: Math.min(100 - width, percentOf(kept)).toFixed(2), height: 10 }) : null,
    svg("rect", { class: "part", width: width.toFixed(2), height: 10 }));
}

// A bar with what it shows beside it.
export function labelled(name, value, part, whole, kind) {
  return el("div", { class: "measure" },
    el("p", {}, el("span", { class: `key ${kind}` }), el("span", { class: "measure-name" }, name), el("strong", {}, value)),
    bar(part, whole, kind, `${name}: ${value}`));
}

// A ring with a share in its middle.
export function ring(part, whole, caption) {
  const share = percent(part, whole);
  const drawn = whole > 0 ? Math.min(1, part / whole) * ROUND : 0;
  const circle = (attributes) => svg("circle", { cx: 50, cy: 50, r: RADIUS, "stroke-width": 11, fill: "none", ...attributes });
  return svg("svg", { class: "ring", viewBox: "0 0 100 100", role: "img", "aria-label": `${share} percent ${caption}` },
    circle({ class: "track" }),
    drawn > 0 ? circle({ class: "part", "stroke-dasharray": `${drawn.toFixed(2)} ${ROUND.toFixed(2)}`, transform: "rotate(-90 50 50)" }) : null,
    svg("text", { x: 50, y: 53, "text-anchor": "middle", class: "ring-number" }, `${share}%`),
    svg("text", { x: 50, y: 66, "text-anchor": "middle", class: "ring-caption" }, caption));
}

// Draws the shares of what is done and what failed, each from 0 to 1, into a bar of progress.
export function drawShares(element, done, failed) {
  if (element.firstChild === null) {
    element.append(svg("svg", { class: "shares", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "part done", height: 10 }), svg("rect", { class: "part failed", height: 10 })));
  }
  const [stored, lost] = element.querySelectorAll("rect");
  stored.setAttribute("width", (done * 100).toFixed(2));
  lost.setAttribute("x", (done * 100).toFixed(2));
  lost.setAttribute("width", (failed * 100).toFixed(2));
  element.setAttribute("aria-valuenow", (Math.min(1, done + failed) * 100).toFixed(1));
  element.setAttribute("aria-valuetext", `${percent(done, 1)} percent done${failed > 0 ? `, ${percent(failed, 1)} percent failed` : ""}`);
}
