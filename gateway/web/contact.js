// Contact with the gateway: whether the last small request of the page got a response from it. Uploads do not count: the
// cause of a broken one may be its file, or a proxy's limit, and it would be sent again at once.

const listeners = new Set();
let away = false;

export const isAway = () => away;

// Calls `listener(away)` each time that contact is lost or comes back.
export const onContact = (listener) => listeners.add(listener);

// Takes the status of a response, 0 if there was none. 502 and 504 come from a proxy before the gateway.
export function heard(status) {
  const now = status === 0 || status === 502 || status === 504;
  if (now === away) return;
  away = now;
  for (const listener of listeners) listener(away);
}
