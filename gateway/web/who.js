// Tenant and rights of the user, from the gateway. The page offers only actions that these rights allow.
import { get, token } from "./api.js";
import { at } from "./dom.js";
import { useViewer } from "./trace.js";

const ALL = ["read", "write", "delete"];

// All rights until the gateway has named them: it refuses what is not allowed anyway.
let rights = new Set(ALL);
let isNeeded = false;
let isDefaultTenant = false;

export const may = (right) => rights.has(right);

// True if the user may see what the whole cluster holds.
export const seesCluster = () => isDefaultTenant && may("read");

// Hides all but the header and the uploads of this tab, until the gateway accepts a token.
export function lock() {
  document.body.dataset.locked = "out";
  at("who").hidden = true;
  at("health").hidden = true;
}

// Asks the gateway. Resolves to whether the rights have changed.
export async function learn() {
  const before = [isDefaultTenant, ...rights].join();
  try {
    const told = await get("/api/page");
    useViewer(told.jaeger_url);
    rights = new Set(told.rights ?? ALL);
    isNeeded = told.sign_in !== false;
    isDefaultTenant = told.tenant === "default";
    name(told.tenant ?? "");
    delete document.body.dataset.locked;
  } catch (failure) {
    if (failure.status === 401) {
      rights = new Set();
      isNeeded = true;
      lock();
    } else if (document.body.dataset.locked === "unknown") {
      // The gateway is away or starting. The parts of the page say so.
      delete document.body.dataset.locked;
    }
    name("");
  }
  showSignIn();
  at("drop").hidden = !may("write");
  // Uploads that were made before stay in sight.
  at("drop").closest("section").hidden = !may("write") && at("transfers").hidden;
  return [isDefaultTenant, ...rights].join() !== before;
}

export function showSignIn() {
  const isIn = token() !== "";
  at("signin").textContent = isIn ? "Sign out" : "Sign in";
  // Without a need for tokens, and without any, nobody can sign in.
  at("signin").hidden = !isIn && !isNeeded;
}

function name(tenant) {
  const isIn = token() !== "";
  at("who").hidden = !isIn;
  const missing = ALL.filter((right) => !may(right));
  const limits = missing.length === 0 || rights.size === 0 ? "" : `, may only ${[...rights].join(" and ")}`;
  at("who").textContent = isIn ? `${tenant === "" ? "Signed in" : tenant}${limits}` : "";
}
