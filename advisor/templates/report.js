"use strict";
// The ledger's filter: by cause, and by words in an item. Without this script every item is shown.
const list = document.getElementById("items");
if (list) {
  const chips = document.getElementById("filter");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const texts = new Map();
  for (const item of list.children) texts.set(item, item.textContent.toLocaleLowerCase());
  let cause = "";
  const apply = () => {
    const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [item, text] of texts) {
      item.hidden = (cause !== "" && item.dataset.cause !== cause) || !words.every((word) => text.includes(word));
      if (!item.hidden) count += 1;
    }
    shown.textContent = `${count} of ${texts.size} shown`;
  };
  chips.hidden = false;
  document.getElementById("find").hidden = false;
  chips.addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    for (const other of chips.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === chip));
    cause = chip.dataset.cause;
    apply();
  });
  search.addEventListener("input", apply);
  // report.html#cause=form_only&find=card opens the ledger that way, so that a link can point at some items.
  const linked = new URLSearchParams(location.hash.slice(1));
  if (linked.has("find")) search.value = linked.get("find");
  for (const chip of chips.querySelectorAll("button")) if (chip.dataset.cause === linked.get("cause")) chip.click();
  if (linked.has("find") || linked.has("cause")) {
    apply();
    document.getElementById("ledger").scrollIntoView();
  }
}
