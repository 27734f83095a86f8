// One upload. XMLHttpRequest, because fetch does not tell how much of a body was sent.
import { authorization, call, Failure, renewed, token } from "./api.js";
import { filePath } from "./names.js";

// Metadata with the id of the upload. After a broken connection the page sees by it whether the file was stored.
const ID = "x-cstore-meta-upload-id";

export function newId() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The gateway's answer. `progress(sent)` is called with bytes; a signal that fires stops it at once.
export async function put(item, { overwrite = false, progress, signal }) {
  for (;;) {
    const used = token();
    try {
      return await once(item, overwrite, used, progress, signal);
    } catch (failure) {
      progress(0);
      if (failure.status === 401 && (await renewed(failure, used))) continue;
      if (failure.code === "network") await checkReadable(item.file);
      throw failure;
    }
  }
}

// Resolves to whether the stored file of the item's name came from this item, by the id that was sent with it.
export async function isStored(item, signal) {
  try {
    const answer = await call("HEAD", filePath(item.name), { signal });
    return answer.headers.get(ID) === item.id;
  } catch (failure) {
    // Without the right to read this is not known.
    if (failure.status === 404 || failure.status === 403) return false;
    throw failure;
  }
}

// Throws if the file changed on the disk or is gone: browsers report that as a network error, too.
async function checkReadable(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Failure({ code: "unreadable", message: "this file cannot be read any more: it was changed, moved or removed on your disk" });
  });
}

function once({ file, name, id }, overwrite, shown, progress, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => new DOMException("cancelled", "AbortError");
    if (signal.aborted) {
      reject(stopped());
      return;
    }
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("PUT", filePath(name) + (overwrite ? "?overwrite=true" : ""));
    for (const [key, value] of Object.entries(authorization(shown))) request.setRequestHeader(key, value);
    request.setRequestHeader("content-type", file.type || "application/octet-stream");
    request.setRequestHeader(ID, id);
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("load", () => {
      if (request.status === 200 || request.status === 201) resolve(answerOf(request));
      else reject(Failure.ofAnswer(request.status, request.responseText, (key) => request.getResponseHeader(key)));
    });
    request.addEventListener("error", () => reject(Failure.ofNetwork()));
    request.addEventListener("abort", () => reject(stopped()));
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    signal.addEventListener("abort", stop);
    request.send(file);
  });
}

function answerOf(request) {
  try {
    return JSON.parse(request.responseText);
  } catch {
    return {};
  }
}
