// How long ago something was goes on while the page is open.
"use strict";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

function shown(seconds) {
  for (const [size, unit] of UNITS) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return `${Math.max(0, Math.floor(seconds))} s ago`;
}

function renew() {
  for (const time of document.querySelectorAll("time.ago")) {
    const text = shown((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

setInterval(renew, 20000);
document.addEventListener("visibilitychange", renew);
