// Names of files: segments between slashes, no folders of their own.

// A name as it stands in a path, each segment by itself. Segments of dots would be resolved by the browser before they are
// sent, and mean another path.
export function encode(name) {
  const segments = name.split("/");
  if (segments.some((segment) => segment === "." || segment === "..")) {
    throw new RangeError("a segment of a name must not be . or ..");
  }
  return segments.map((segment) => encodeURIComponent(wellFormed(segment))).join("/");
}

// Half a surrogate pair, as broken file systems have them, cannot be sent: it becomes U+FFFD.
export const wellFormed = (text) => new TextDecoder().decode(new TextEncoder().encode(text));

export const filePath = (name) => `/api/files/${encode(name)}`;

export const downloadPath = (name) => `/api/download/${encode(name)}`;

// What stands behind the last slash; of a folder, its last segment.
export function base(name) {
  const segments = name.split("/").filter((segment) => segment !== "");
  return segments.at(-1) ?? "";
}

// "a/b.txt" and 2: "a/b (2).txt".
export function numbered(name, n) {
  const slash = name.lastIndexOf("/") + 1;
  const dot = name.lastIndexOf(".");
  const split = dot > slash ? dot : name.length;
  return `${name.slice(0, split)} (${n})${name.slice(split)}`;
}

// The folder of the address bar: "#/a/b/" is "a/b/". null when the fragment is none of ours.
export function folderOfHash(hash) {
  if (hash === "" || hash === "#") return "";
  if (!hash.startsWith("#/")) return null;
  try {
    const folder = hash.slice(2).split("/").map(decodeURIComponent).join("/");
    return folder === "" || folder.endsWith("/") ? folder : `${folder}/`;
  } catch {
    return "";
  }
}

export const hashOfFolder = (folder) => `#/${folder.split("/").map((segment) => encodeURIComponent(wellFormed(segment))).join("/")}`;
