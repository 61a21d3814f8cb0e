/* Sort and filter the table of runs; open what an address points to. */
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const filters = table.parentElement.querySelector(".filters");
  const [text, task] = filters.querySelectorAll("input, select");
  const value = (row, n) => row.cells[n].dataset.value ?? row.cells[n].textContent.trim();

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const said = `${row.textContent} ${row.title}`.toLowerCase();
      row.hidden = !words.every((word) => said.includes(word))
        || (task.value && row.cells[2].textContent !== task.value);
    }
    const left = rows.filter((row) => !row.hidden).length;
    filters.querySelector("output").textContent = `${left} of ${rows.length}`;
  };
  text.addEventListener("input", filter);
  task.addEventListener("change", filter);
  filter();
  filters.hidden = false;

  [...table.tHead.rows[0].cells].forEach((head, n) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.ariaSort !== "ascending" ? 1 : -1;
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.ariaSort = up > 0 ? "ascending" : "descending";
      const number = head.classList.contains("number");
      rows.sort((a, b) => {
        const [x, y] = [value(a, n), value(b, n)];
        if (number && (x === "" || y === "")) return (x === "") - (y === "");
        return up * (number ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
    });
  });
}

const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", reveal);
reveal();
