// Filter the failed items by cause. Without this script all of them are shown.
const list = document.getElementById("items");
if (list) {
  const chips = document.getElementById("filter");
  const shown = document.getElementById("shown");
  chips.hidden = false;
  chips.addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    for (const other of chips.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === chip));
    let count = 0;
    for (const item of list.children) {
      item.hidden = chip.dataset.cause !== "" && item.dataset.cause !== chip.dataset.cause;
      if (!item.hidden) count += 1;
    }
    shown.textContent = `${count} of ${list.children.length} shown`;
  });
}
