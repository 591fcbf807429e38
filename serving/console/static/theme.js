// The system's theme, light or dark, in turn. The choice is kept in a cookie, so that the server renders the page in it: no flash.
"use strict";

const themeButton = document.getElementById("theme");
const themeName = document.getElementById("theme-name");
const root = document.documentElement;
const THEMES = ["", "light", "dark"];

function named(theme) {
  return theme || "system";
}

function label() {
  const now = root.dataset.theme || "";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  themeName.textContent = named(now);
  themeButton.setAttribute("aria-label", `Theme: ${named(now)}. Switch to the ${named(next)} theme`);
  themeButton.title = `Switch to the ${named(next)} theme`;
}

if (themeButton) {
  themeButton.hidden = false;
  label();
  themeButton.addEventListener("click", () => {
    const wanted = THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length];
    if (wanted) root.dataset.theme = wanted;
    else delete root.dataset.theme;
    document.querySelector('meta[name="color-scheme"]').content = wanted || "light dark";
    document.cookie = `kubehabit_theme=${wanted}; path=/console; max-age=${wanted ? 31536000 : 0}; samesite=strict`;
    label();
  });
}
