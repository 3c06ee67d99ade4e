// Files made of what the page shows: tables as CSV, the plot as SVG.

function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const fileName = (ending) => `${data.name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "") || "report"}-${ending}`;

const NUMBERS = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(; [+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)*$/i;

/** A cell of a CSV file: text that a spreadsheet would take for a formula gets a leading ', as csv_cell of
 *  clipjax/results/escaping.py. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value).replace(/\r\n?/g, "\n");
  if (typeof value !== "number" && /^([ \t\n]*[=+\-@＝＋－＠]|[\t\n])/.test(text) && !NUMBERS.test(text)) text = `'${text}`;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const asCsv = (lines) => lines.map((line) => `${line.map(csvCell).join(",")}\n`).join("");

/** The numbers of all models that pass the filters, in the table's order, with all digits that the page has. */
function numbersAsCsv() {
  const columns = tableColumns();
  const parts = columns.flatMap(csvParts);
  return asCsv([parts.map(([title]) => title), ...tableModels(columns).map((m) => parts.map(([, value]) => value(m)))]);
}

/** [title, value of a model] of a column; with the ends of its interval if they are shown. */
function csvParts({ key, head }) {
  if (key === "model") return [["model", (m) => data.models[m]]];
  if (typeof key === "string") return [[head[0], (m) => factOf(m, key.slice(5))]];
  const name = head.filter(Boolean).join(" ");
  const end = (which) => (m) => (cellOf(m, key) < 0 ? null : cells[which][cellOf(m, key)]);
  return [[name, end("value")], ...(state.intervals ? ["lo", "hi"] : []).map((which) => [`${name} ${which}`, end(which)])];
}

/** A table made in Python: of a number all its digits, of a cell with details its own words. */
function writtenAsCsv(table) {
  const words = (cell) => {
    const bare = cell.cloneNode(true);
    for (const more of bare.querySelectorAll("details, small")) more.remove();
    const text = bare.textContent.trim();
    return text === "–" ? null : /^[-+\d]/.test(text) && cell.dataset.value ? Number(cell.dataset.value) : text;
  };
  return asCsv([...table.tHead.rows, ...table.tBodies[0].rows].map((row) => [...row.cells].map(words)));
}

const PAINT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size"];

/** The plot by itself on light paper: each shape with its own style, each marker with its model's name, and the groups
 *  below. */
function plotAsSvg() {
  const plot = find("plot");
  const [, , width, height] = plot.getAttribute("viewBox").split(" ").map(Number);
  const legend = savedLegend(width, height);
  const tall = height + 24 * legend.rows;
  document.documentElement.style.colorScheme = "light"; // for as long as styles are read
  plot.append(legend.node);
  const copy = plot.cloneNode(true);
  const twins = [...copy.querySelectorAll("*")];
  [...plot.querySelectorAll("*")].forEach((node, k) => {
    const style = getComputedStyle(node);
    if (node.tagName !== "g") for (const name of PAINT) twins[k].setAttribute(name, style.getPropertyValue(name));
    twins[k].removeAttribute("class");
  });
  legend.node.remove();
  document.documentElement.style.colorScheme = "";
  const marks = [...copy.children].filter((node) => node.tagName === "g")[3];
  drawnPoints.forEach(({ model }, k) => marks.children[k].append(make("title", {}, data.models[model])));
  copy.querySelector("#ring").remove();
  const saved = make("svg", { viewBox: `0 0 ${width} ${tall}`, width, height: tall, "font-family": "sans-serif" });
  saved.append(make("rect", { width, height: tall, fill: "#fff" }), ...copy.childNodes);
  return new XMLSerializer().serializeToString(saved);
}

/** The groups of the points drawn, in rows below the plot. */
function savedLegend(width, height) {
  const groups = [...new Set(drawnPoints.map(({ group }) => group))].sort((a, b) => (a < 0) - (b < 0) || a - b);
  const node = make("g", {});
  let [left, rows] = [MARGIN.left, 1];
  for (const group of groups) {
    const { title } = groupAt(group);
    const room = 34 + 6.6 * title.length;
    if (left + room > width && left > MARGIN.left) [left, rows] = [MARGIN.left, rows + 1];
    const y = height + 24 * rows - 14;
    node.append(marker(groupAt(group), { transform: `translate(${left},${y})` }), make("text", { x: left + 10, y: y + 4 }, title));
    left += room;
  }
  return { node, rows: groups.length ? rows : 0 };
}

function startSaving() {
  find("save-numbers").addEventListener("click", () => save(fileName("numbers.csv"), "text/csv;charset=utf-8", numbersAsCsv()));
  find("save-plot").addEventListener("click", () => save(fileName("plot.svg"), "image/svg+xml", plotAsSvg()));
  for (const table of document.querySelectorAll("table.sortable")) {
    const button = make("button", { type: "button", "aria-label": `Save ${table.id} as CSV` }, "Save as CSV");
    button.addEventListener("click", () => save(fileName(`${table.id}.csv`), "text/csv;charset=utf-8", writtenAsCsv(table)));
    table.parentNode.after(make("p", { class: "save" }, button));
  }
}
