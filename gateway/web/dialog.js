// Questions, one at a time: a dialog that keeps the focus, closes by Escape and gives the focus back.
import { el } from "./dom.js";
import { describe } from "./failure.js";

let last = Promise.resolve();
let made = 0;

// Asks after what was asked before. `buttons` are {label, value, kind, act}: `act` runs before the dialog closes, and when
// it fails the dialog says so and stays. The first button is what Enter does. Answers the value, null for Escape. When
// its turn comes, `unless` may answer in place of the user; a signal that fires takes the question back.
export function ask(question) {
  const answer = last.then(() => {
    if (question.signal?.aborted) return null;
    return question.unless?.() ?? show(question);
  });
  last = answer.catch(() => {});
  return answer;
}

// Asks over whatever is open: for what another question waits for.
export const askNow = (question) => show(question);

function show({ title, content, buttons, signal }) {
  return new Promise((resolve) => {
    made += 1;
    const ids = { title: `dialog-${made}-title`, content: `dialog-${made}-content` };
    const told = el("p", { role: "alert", class: "dialog-failure" });
    let result = null;
    const controls = buttons.map((button, index) => el("button", {
      type: index === 0 ? "submit" : "button", class: button.kind ?? "",
      on: index === 0 ? {} : { click: () => press(button) },
    }, button.label));
    const form = el("form", { on: { submit: (event) => { event.preventDefault(); press(buttons[0]); } } },
      el("h2", { id: ids.title }, title), el("div", { id: ids.content, class: "dialog-content" }, content), told,
      el("div", { class: "buttons end" }, controls.slice().reverse()));
    const dialog = el("dialog", { "aria-labelledby": ids.title, "aria-describedby": ids.content }, form);

    async function press(button) {
      if (dialog.hasAttribute("aria-busy")) return;
      told.textContent = "";
      dialog.setAttribute("aria-busy", "true");
      try {
        await button.act?.();
        result = button.value;
        dialog.close();
      } catch (failure) {
        told.append(describe(failure));
      } finally {
        dialog.removeAttribute("aria-busy");
      }
    }

    dialog.addEventListener("cancel", (event) => { if (dialog.hasAttribute("aria-busy")) event.preventDefault(); });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(result); });
    signal?.addEventListener("abort", () => dialog.close());
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("[data-first]") ?? controls.at(-1)).focus();
  });
}
