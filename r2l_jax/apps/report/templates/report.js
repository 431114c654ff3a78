"use strict";

// A click on a column title sorts the table: by the number behind each cell, or else by its text.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const cells = [...body.rows].map((row) => row.cells[column]);
    if (cells.some((cell) => cell && cell.dataset.value !== undefined)) title.classList.add("numeric");
    if (!title.textContent.trim() || body.rows.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const descending = title.getAttribute("aria-sort") === "ascending";
      for (const other of titles) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const sign = descending ? -1 : 1;
      body.append(...[...body.rows].sort((first, second) => compare(first.cells[column], second.cells[column], sign)));
    });
  });
}

function compare(first, second, sign) {
  const [one, two] = [first, second].map((cell) => parseFloat(cell.dataset.value));
  if (Number.isNaN(one) && Number.isNaN(two)) return sign * first.textContent.localeCompare(second.textContent);
  // Cells without a number stay below the others.
  return Number.isNaN(one) ? 1 : Number.isNaN(two) ? -1 : sign * (one - two);
}

// On a narrow page, the verdict comes before the contents.
if (matchMedia("(max-width: 40rem)").matches) document.querySelector("nav details").open = false;

// Collapsed parts are printed as well.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.dataset.printed = "";
    details.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) {
    delete details.dataset.printed;
    details.open = false;
  }
});
