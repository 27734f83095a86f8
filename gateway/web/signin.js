// The API token: asked for when the gateway wants one, forgotten when the tab closes or the user signs out.
import { isKept, keepToken, onTokenOfOtherTab, onUnauthenticated, token } from "./api.js";
import { askNow } from "./dialog.js";
import { at, el, say } from "./dom.js";
import { describe } from "./failure.js";
import { lock, showSignIn } from "./who.js";

let onChange = () => {};
// Takes the open question back.
let question = null;

// `reload(isSignedOut)` is called when there is another token, or no token any more.
export function start(reload) {
  onChange = reload;
  onUnauthenticated((failure) => enter(failure));
  onTokenOfOtherTab(() => {
    say(token() === "" ? "Signed out in another tab" : "Signed in by another tab");
    question?.abort();
    changed();
  });
  at("signin").addEventListener("click", () => {
    if (token() === "") {
      enter(null);
      return;
    }
    keepToken("");
    say("Signed out");
    changed();
  });
  at("signin-again").addEventListener("click", () => enter(null));
  showSignIn();
}

function changed() {
  showSignIn();
  onChange(token() === "");
}

// Asks for a token. Resolves to whether there is another one. It does not wait for dialogs that are open, because one of
// them may need the token.
async function enter(failure) {
  const had = token();
  if (failure !== null && had === "") lock();
  const input = el("input", {
    id: "token", type: "password", autocomplete: "off", autocapitalize: "off", spellcheck: "false", "data-first": true,
    "aria-describedby": "token-hint",
  });
  const stays = el("input", { id: "stay", type: "checkbox", "aria-describedby": "stay-hint" });
  stays.checked = isKept();
  const content = [
    failure === null || (had === "" && failure.status === 401)
      ? el("p", {}, "This gateway asks for an API token.") : el("p", {}, describe(failure)),
    el("label", { for: "token" }, "API token"), input,
    el("p", { id: "token-hint", class: "hint" }, "It begins with cst_ and comes from ", el("code", {}, "cstore admin token create"), "."),
    el("p", { class: "check" }, stays, el("label", { for: "stay" }, "Stay signed in on this computer")),
    el("p", { id: "stay-hint", class: "hint" },
      "Then everybody who uses this browser has the rights of the token, until you sign out. Otherwise the token is forgotten when this tab is closed."),
  ];
  const buttons = [{ label: "Sign in", value: "token", kind: "primary" }, { label: "Cancel", value: null }];
  if (had !== "") buttons.splice(1, 0, { label: "Go on without", value: "none" });
  question = new AbortController();
  const answer = await askNow({ title: "Sign in", content, buttons, signal: question.signal });
  question = null;
  // Another tab has signed in or out.
  if (answer === null && token() !== had) return token() !== "";
  const given = answer === "none" ? "" : input.value.trim();
  if (answer === null || (answer === "token" && given === "")) {
    if (failure !== null) lock();
    return false;
  }
  // Characters that no token has cannot stand in a header.
  keepToken(given.replace(/[^\x21-\x7e]/g, ""), stays.checked);
  changed();
  return true;
}
