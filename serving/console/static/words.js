// Words explained show by style alone; this keeps them inside the window, and lets Escape put them away.
"use strict";

document.addEventListener("pointerenter", place, true);
document.addEventListener("focusin", place);

function place(event) {
  const word = event.target instanceof Element ? event.target.closest(".term") : null;
  if (!word) return;
  word.classList.remove("dismissed", "shift");
  const tip = word.querySelector(".tip");
  if (tip.getBoundingClientRect().right > widthOfWindow() - 8) word.classList.add("shift");
}

function widthOfWindow() {
  return document.documentElement.clientWidth;
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const word of document.querySelectorAll(".term:hover, .term:focus")) word.classList.add("dismissed");
});
