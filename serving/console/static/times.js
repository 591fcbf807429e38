// Times are shown in the browser's zone, or in UTC if the button says so; the server writes them, by a cookie.
// How long ago something was goes on while the page is open.
"use strict";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];
const own = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const pageZone = document.documentElement.dataset.zone;
const zoneButton = document.getElementById("zone");

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

function cookie(name) {
  return document.cookie.split("; ").find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1);
}

function keep(name, value) {
  const age = value === "" ? 0 : 31536000;
  document.cookie = `${name}=${value}; path=/console; max-age=${age}; samesite=strict`;
}

// The first page is written in UTC. It is loaded again in the browser's zone, unless cookies are refused.
if (cookie("kubehabit_zone") !== own) {
  keep("kubehabit_zone", own);
  const differs = !own.includes("UTC") && pageZone === "UTC" && cookie("kubehabit_utc") !== "1";
  if (differs && cookie("kubehabit_zone") === own && document.querySelector("time")) location.reload();
}

if (zoneButton && !own.includes("UTC")) {
  zoneButton.hidden = false;
  zoneButton.title = pageZone === "UTC" ? `Show times in ${own}` : "Show times in UTC";
  zoneButton.addEventListener("click", () => {
    keep("kubehabit_utc", pageZone === "UTC" ? "" : "1");
    location.reload();
  });
}

setInterval(renew, 20000);
document.addEventListener("visibilitychange", renew);
