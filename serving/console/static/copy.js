// Buttons that copy a command. Without a clipboard (plain HTTP beyond loopback) they stay hidden: the text can be selected.
"use strict";

if (navigator.clipboard) {
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    const text = button.querySelector("span");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        text.textContent = "Copied";
      } catch {
        text.textContent = "Select it";
      }
      setTimeout(() => { text.textContent = "Copy"; }, 2000);
    });
  }
}
