// Changes of a file that hold only for what the user has seen of it: the file in the list, not one that came later.
import { call } from "./api.js";

export async function change(method, path, file, options = {}) {
  try {
    return await call(method, path, { ...options, headers: { "if-match": `"${file.etag}"` } });
  } catch (failure) {
    if (failure.status === 412) failure.message = "the file has changed since the list was made; refresh the list and look again";
    throw failure;
  }
}
