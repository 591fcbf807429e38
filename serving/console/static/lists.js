// Fields that complete names while they are typed, and the bar that acts on the rows that are ticked.
"use strict";

for (const field of document.querySelectorAll("input[data-names]")) {
  let asked = null;
  let waiting = 0;
  const complete = async () => {
    const part = field.value.trim();
    if (part === asked) return;
    asked = part;
    const url = `/console/names?${new URLSearchParams({ kind: field.dataset.names, q: part })}`;
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    if (!answer.ok || part !== asked) return;
    const names = await answer.json();
    field.list.replaceChildren(...names.map((name) => {
      const option = document.createElement("option");
      option.value = name;
      return option;
    }));
  };
  field.addEventListener("focus", complete);
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(complete, 150);
  });
}

const bulk = document.getElementById("bulk");
const bulkBar = document.getElementById("bulk-bar");

function count() {
  const ticked = bulk.querySelectorAll('input[name="chosen"]:checked').length;
  bulkBar.hidden = !ticked;
  document.getElementById("bulk-count").textContent = ticked;
}

if (bulk && bulkBar) {
  count();
  bulk.addEventListener("change", count);
}
