// The API token: asked for when the gateway wants one, forgotten when the tab closes.
import { keepToken, onUnauthenticated, token } from "./api.js";
import { askNow } from "./dialog.js";
import { at, el, say } from "./dom.js";
import { describe } from "./failure.js";
import { showSignIn } from "./who.js";

// `reload` is called when another token is there.
export function start(reload) {
  onUnauthenticated((failure) => enter(failure));
  at("signin").addEventListener("click", async () => {
    if (token() !== "") {
      keepToken("");
      say("Signed out");
    } else if (!(await enter(null))) {
      return;
    }
    showSignIn();
    reload();
  });
  showSignIn();
}

// It may be a dialog that needs the token, so this does not wait for its end.
async function enter(failure) {
  const had = token();
  const input = el("input", {
    id: "token", type: "password", autocomplete: "off", autocapitalize: "off", spellcheck: "false", "data-first": true,
    "aria-describedby": "token-hint",
  });
  const content = [
    failure === null || (had === "" && failure.status === 401)
      ? el("p", {}, "This gateway asks for an API token.") : el("p", {}, describe(failure)),
    el("label", { for: "token" }, "API token"), input,
    el("p", { id: "token-hint", class: "hint" },
      "It begins with cst_ and comes from ", el("code", {}, "cstore admin token create"), ". This tab keeps it until it is closed."),
  ];
  const buttons = [{ label: "Sign in", value: "token", kind: "primary" }, { label: "Cancel", value: null }];
  if (had !== "") buttons.splice(1, 0, { label: "Go on without", value: "none" });
  const answer = await askNow({ title: "Sign in", content, buttons });
  const given = answer === "none" ? "" : input.value.trim();
  if (answer === null || (answer === "token" && given === "")) return false;
  // Characters that no token has cannot stand in a header.
  keepToken(given.replace(/[^\x21-\x7e]/g, ""));
  showSignIn();
  return true;
}
