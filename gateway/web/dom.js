// Elements from values. Names of files are hostile input, so text only ever becomes a text node, and nothing here parses
// markup: the page's security policy would refuse it as well.

const SVG = "http://www.w3.org/2000/svg";

// An element of the page by its id.
export const at = (id) => document.getElementById(id);

// `on: {click: f}` are listeners; null and false leave an attribute or a child out.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Tells people who listen to the page. The region is polite: it waits until they have heard what came before.
export function say(text) {
  at("said").textContent = text;
}
