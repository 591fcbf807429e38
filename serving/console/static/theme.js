// Light or dark, kept in a cookie so that the server renders the page in it: no flash of the other one.
"use strict";

const button = document.getElementById("theme");
const root = document.documentElement;

function current() {
  if (root.dataset.theme) return root.dataset.theme;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function label() {
  const other = current() === "dark" ? "light" : "dark";
  button.setAttribute("aria-label", `Switch to the ${other} theme`);
  button.title = `Switch to the ${other} theme`;
}

if (button) {
  button.hidden = false;
  label();
  button.addEventListener("click", () => {
    const wanted = current() === "dark" ? "light" : "dark";
    root.dataset.theme = wanted;
    document.cookie = `kubehabit_theme=${wanted}; path=/console; max-age=31536000; samesite=strict`;
    label();
  });
}
