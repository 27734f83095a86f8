// One upload. XMLHttpRequest, because fetch does not tell how much of a body was sent.
import { authorization, Failure, renewed, token } from "./api.js";
import { filePath } from "./names.js";

const TRIES = 3;
const PAUSE_S = 10;

// The gateway's answer. `progress(sent)` is called with bytes; a signal that fires stops it at once.
export async function put(file, name, { overwrite = false, progress, signal }) {
  for (let attempt = 1; ; attempt += 1) {
    const used = token();
    try {
      return await once(file, name, overwrite, used, progress, signal);
    } catch (failure) {
      progress(0);
      if (failure.status === 401 && (await renewed(failure, used))) continue;
      const busy = failure.status === 503 && attempt < TRIES;
      if (!busy) throw failure;
      await pause(Math.min(PAUSE_S, failure.retryAfter || 1), signal);
    }
  }
}

function once(file, name, overwrite, shown, progress, signal) {
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

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    }, { once: true });
  });
}
