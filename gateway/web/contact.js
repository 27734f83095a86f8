// Contact with the gateway, as all requests of the page see it: the last one was answered, or it was not.

const listeners = new Set();
let away = false;

export const isAway = () => away;

// Calls `listener(away)` each time that contact is lost or comes back.
export const onContact = (listener) => listeners.add(listener);

// Takes the status of a request: 0 when there was no answer. 502 and 504 are answers of what stands before the gateway.
export function heard(status) {
  const now = status === 0 || status === 502 || status === 504;
  if (now === away) return;
  away = now;
  for (const listener of listeners) listener(away);
}
