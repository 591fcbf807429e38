// Keys: j and k from row to row, x to tick one, / to the search, n for new alerts, g and a letter to a page, ? for this list.
"use strict";

const PLACES = { o: "/console/", a: "/console/alerts", x: "/console/exceptions", r: "/console/rights", u: "/console/rules", i: "/console/incidents", p: "/console/principals", m: "/console/model", f: "/console/fleet", s: "/console/search", w: "/console/glossary" };
const help = document.getElementById("help");
const opener = document.getElementById("keys");
let going = false;

if (opener) {
  opener.hidden = false;
  opener.addEventListener("click", () => help.showModal());
}

function writing(element) {
  return element instanceof HTMLElement && (element.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName));
}

function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row === document.activeElement || row.closest("li, tr")?.contains(document.activeElement));
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step));
  rows[next].focus();
  rows[next].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (writing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (help.open) return;
  if (going) {
    going = false;
    const link = PLACES[event.key] && document.querySelector(`nav a[href="${PLACES[event.key]}"]`);
    if (link) {
      event.preventDefault();
      link.click();
      return;
    }
  }
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    x: () => {
      const row = document.activeElement?.closest("li, tr");
      row?.querySelector('input[type="checkbox"]')?.click();
    },
    g: () => { going = true; setTimeout(() => { going = false; }, 1200); },
    n: () => document.querySelector("#new:not([hidden]) a")?.click(),
    "/": () => document.querySelector("[data-search]")?.focus(),
    "?": () => help.showModal(),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
