"use strict";
const number = (text) => {
  const found = text.replace(/,/g, "").match(/^-?\d+(\.\d+)?(e[+-]?\d+)?/i);
  return found ? Number(found[0]) : null;
};
const compare = (one, other) => {
  const [a, b] = [number(one), number(other)];
  if (a !== null && b !== null) return a - b;
  if (a !== null || b !== null) return a === null ? 1 : -1;
  return one.localeCompare(other);
};
const sortBy = (table, column, heading) => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const each of table.querySelectorAll("th")) each.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = (row) => row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows];
  const filled = rows.filter((row) => text(row) !== "");
  filled.sort((one, other) => compare(text(one), text(other)) * (down ? -1 : 1));
  table.tBodies[0].append(...filled, ...rows.filter((row) => text(row) === ""));
};
const say = (id, text) => {
  const place = document.querySelector(`[data-status="${id}"]`);
  if (place) place.textContent = text;
};
const content = (element) => {
  if (element.tagName !== "TABLE") return element.textContent;
  const rows = [...element.rows].filter((row) => !row.hidden);
  return rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n");
};
const copy = async (id, button) => {
  const element = document.getElementById(id);
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(content(element));
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
};
for (const table of document.querySelectorAll("table")) {
  [...table.querySelectorAll("th")].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, column, heading));
  });
}
for (const input of document.querySelectorAll("[data-filter]")) {
  input.addEventListener("input", () => {
    const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    say(input.dataset.filter, shown === rows.length ? "" : `${shown} of ${rows.length} rows`);
  });
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy, button));
}
