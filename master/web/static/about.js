// The run's configuration, and commands that train the same again and start another slave.
import { byId, made } from "./format.js";

export function showCommands({ changed, train, slave }) {
  byId("changed").replaceChildren(...(changed.length ? changed.map((key) => made("li", {}, made("code", {}, key))) : [made("li", {}, "none")]));
  byId("command-train").textContent = train;
  byId("command-slave").textContent = slave;
  for (const word of ["FILE", "DIR", "CODE"]) byId(`about-${word.toLowerCase()}`).hidden = !slave.includes(` ${word}`);
}

// A clipboard is for pages of this machine, or over TLS.
export function prepareCopies() {
  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.hidden = navigator.clipboard === undefined;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId(button.dataset.copies).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}
