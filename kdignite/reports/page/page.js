"use strict";
// Tables whose columns are sorted by a button in their header; without scripts they are plain tables.
const collator = new Intl.Collator("en", { numeric: true });

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, headers, column));
  });
}

function sort(table, headers, column) {
  const numeric = headers[column].classList.contains("number");
  const before = headers[column].getAttribute("aria-sort");
  // numbers begin with the largest, names with the first
  const order = before ? (before === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
  for (const header of headers) header.removeAttribute("aria-sort");
  headers[column].setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => {
    const [first, second] = [key(one.cells[column]), key(other.cells[column])];
    if (first === null || second === null) return (first === null) - (second === null); // missing ones stay last
    return sign * (typeof first === "number" && typeof second === "number" ? first - second : collator.compare(first, second));
  });
  table.tBodies[0].append(...rows);
}

function key(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  return text === "-" || text === "" ? null : text;
}
