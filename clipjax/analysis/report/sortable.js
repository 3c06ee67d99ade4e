// Tables made in Python: a click on a head sorts by its column.

/** What a cell sorts by: its number, else its text. Empty cells come last in either direction. */
function keyOf(cell) {
  const said = cell?.dataset.value ?? cell?.textContent ?? "";
  const value = said.trim();
  return value === "" || value.startsWith("–") ? null : Number.isNaN(Number(value)) ? value.toLowerCase() : Number(value);
}

function sortWritten(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : descending ? "descending" : "ascending"));
  const lines = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  lines.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return (descending ? -1 : 1) * compare(a.key, b.key);
  });
  table.tBodies[0].append(...lines.map(({ row }) => row));
}

function startSortable() {
  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (head) sortWritten(table, head.cellIndex);
    });
  }
}
