// New alerts are counted in a bar and shown when asked for: nothing moves while the page is read.
"use strict";

const list = document.getElementById("list");
const bar = document.getElementById("new");
const state = document.getElementById("live");
const stateText = document.getElementById("live-text");
const title = document.title;
const fresh = new Set();
let source = null;
let last = null;

function say(on, text) {
  state.hidden = false;
  state.classList.toggle("on", on);
  if (stateText.textContent !== text) stateText.textContent = text;
}

function follow() {
  if (source || !list.dataset.stream) return;
  const url = new URL(list.dataset.stream, location.href);
  if (last) url.searchParams.set("after", last);
  source = new EventSource(url);
  source.onopen = () => say(true, "Live");
  source.onerror = () => {
    // The browser tries again by itself, unless the answer was a refusal: then the session is over.
    if (source && source.readyState === EventSource.CLOSED) {
      source = null;
      say(false, "Not live: load the page again");
    } else {
      say(false, "Connecting again");
    }
  };
  source.addEventListener("alert", (event) => {
    last = event.lastEventId;
    const alert = JSON.parse(event.data);
    if (list.querySelector(`[data-id="${CSS.escape(alert.id)}"]`)) return;
    fresh.add(alert.id);
    document.getElementById("new-text").textContent = fresh.size === 1 ? "1 new alert" : `${fresh.size} new alerts`;
    bar.hidden = false;
    document.title = `(${fresh.size}) ${title}`;
  });
}

function rest() {
  if (source) source.close();
  source = null;
}

async function show(event) {
  event.preventDefault();
  const answer = await fetch(document.getElementById("show-new").href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) {
    location.reload();
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const renewed = page.getElementById("list");
  list.replaceChildren(...renewed.childNodes);
  for (const id of fresh) list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.classList.add("fresh");
  document.querySelector(".tally")?.replaceWith(page.querySelector(".tally"));
  fresh.clear();
  bar.hidden = true;
  document.title = title;
  window.scrollTo({ top: 0 });
  list.querySelector("[data-row]")?.focus({ preventScroll: true });
}

if (list && bar) {
  document.getElementById("show-new").addEventListener("click", show);
  // A page in the background gives its connection back: browsers open only a few to one server.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
  window.addEventListener("pagehide", rest);
  follow();
}
