// Filters the table of trained instructions, and sorts each table by the column whose heading is pressed.
for (const input of document.querySelectorAll("input[data-filters]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    const rows = document.getElementById(input.dataset.filters).tBodies[0].rows;
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    document.getElementById(input.dataset.filters + "-count").textContent = shown;
  });
}
const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, body = heading.closest("table").tBodies[0], column = heading.cellIndex;
    const falls = heading.ariaSort === "ascending";
    for (const other of heading.parentElement.cells) other.ariaSort = null;
    heading.ariaSort = falls ? "descending" : "ascending";
    const compare = (one, other) => value(one, column).localeCompare(value(other, column), "en", { numeric: true });
    body.append(...[...body.rows].sort((one, other) => (falls ? compare(other, one) : compare(one, other))));
  });
}
