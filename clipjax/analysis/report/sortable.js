// Tables made in Python: a click on a head sorts by its column.

/** What a cell sorts by: its number, else its text. Empty cells come last in either direction. */
function keyOf(cell) {
  const said = cell?.dataset.value ?? cell?.textContent ?? "";
  const value = said.trim();
  return value === "" || value.startsWith("–") ? null : Number.isNaN(Number(value)) ? value.toLowerCase() : Number(value);
}

const sortableTables = () => [...document.querySelectorAll("table.sortable")];

/** `state.tables`: [table, column, way] of each that the reader has sorted. */
function sortWritten(table, column, way) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, k) => head.setAttribute("aria-sort", k === column ? way : "none"));
  if (column === undefined) return;
  const lines = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  lines.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return (way === "descending" ? -1 : 1) * compare(a.key, b.key);
  });
  table.tBodies[0].append(...lines.map(({ row }) => row));
}

const asWritten = new Map(); // table -> its lines

/** Each table as `state.tables` has it. */
function sortAll() {
  for (const [table, lines] of asWritten) {
    const [, column, way] = state.tables.find(([id]) => id === table.id) ?? [];
    table.tBodies[0].append(...lines);
    sortWritten(table, column, way);
  }
}

function startSortable() {
  for (const table of sortableTables()) {
    asWritten.set(table, [...table.tBodies[0].rows]);
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (!head) return;
      const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      state.tables = [...state.tables.filter(([id]) => id !== table.id), [table.id, head.cellIndex, way]];
      sortWritten(table, head.cellIndex, way);
      saveView();
    });
  }
}
