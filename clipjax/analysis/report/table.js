// The table of numbers: sorted, filtered, moved through with the arrow keys.

const FACTS = {
  train_source: "training data",
  train_size_m: "samples, millions",
  arch: "architecture",
  params_m: "parameters, millions",
  image_size: "image size",
  fine_tune: "fine-tuned",
  objective: "objective",
  licence: "licence",
};
const SHOWN_AT_FIRST = 300;
let most = SHOWN_AT_FIRST;

/** The table's columns: head, sort key, and the cell of a model. */
function tableColumns() {
  const model = { key: "model", head: ["model"], sort: (m) => data.models[m].toLowerCase(), cell: modelCell };
  const known = state.facts.map((fact) => ({
    key: `fact:${fact}`,
    head: [FACTS[fact]],
    sort: (m) => factOf(m, fact),
    cell: (m) => make("td", { class: "fact" }, factText(factOf(m, fact))),
  }));
  const numbers = state.columns.map((column) => {
    const { dataset, metric, more } = titleOf(column);
    return { key: column, head: [dataset, metric, more], sort: (m) => valueOf(m, column), cell: (m) => numberCell(m, column) };
  });
  return [model, ...known, ...numbers];
}

/** A licence that nobody states is not left out: it is unknown. */
const factOf = (model, fact) => facts[model]?.[fact] ?? (fact === "licence" ? "unknown" : null);

const factText = (value) =>
  value === null || value === undefined ? "" : typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);

/** A name that may break after _ : / and . */
const breakable = (name) => name.split(/(?<=[_:/.])/).flatMap((part, k) => (k ? [make("wbr"), part] : [part]));

function modelCell(model) {
  const name = make("button", { type: "button", class: "name", "data-model": model }, ...breakable(data.models[model]));
  if (isStated(model)) name.append(make("sup", {}, "u"));
  return make("th", { scope: "row" }, make("span", { class: "model" }, glyph(groupAt(groupOf(model))), name));
}

function numberCell(model, column) {
  const cell = cellOf(model, column);
  if (cell < 0) return make("td", {});
  const marks = [originOf(cell) === "published" ? "p" : "", partOf(cell) ? "s" : ""].filter(Boolean).join(" ");
  const node = make("td", { "data-cell": cell, tabindex: -1 }, short(cells.value[cell]));
  if (marks) node.append(make("sup", {}, marks));
  const references = referencesOf(cell);
  if (references.length) node.classList.add("referenced");
  const limit = limits(cell);
  if (state.intervals && limit) node.append(make("small", {}, limit));
  if (state.published) for (const one of references) node.append(make("small", {}, signed(one.difference)));
  return node;
}

function headCell({ key, head }) {
  const sorted = state.sort.by === key;
  const way = sorted ? (state.sort.descending ? "descending" : "ascending") : "none";
  const [first, ...rest] = head.filter(Boolean);
  const lines = [make("b", {}, ...breakable(first)), ...rest.map((text) => make("span", {}, ...breakable(text)))];
  const arrow = make("i", { "aria-hidden": "true" }, sorted ? (state.sort.descending ? "▼" : "▲") : "");
  const button = make("button", { type: "button", "data-sort": key }, ...lines, arrow);
  return make("th", { scope: "col", "aria-sort": way, class: typeof key === "number" ? "number" : null }, button);
}

/** Models in the order of a column; those without a value come last in either direction. */
function sorted(models, column) {
  const direction = state.sort.descending ? -1 : 1;
  const keys = new Map(models.map((model) => [model, column.sort(model)]));
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return [...models].sort((a, b) => {
    const [one, other] = [keys.get(a), keys.get(b)];
    if (one === null || other === null) return (one === null) - (other === null) || a - b;
    const both = typeof one === typeof other ? compare(one, other) : compare(String(one), String(other));
    return direction * both || a - b;
  });
}

/** The models that pass the filters, sorted. */
const tableModels = (columns) => sorted(chosen(), columns.find((column) => column.key === state.sort.by) ?? columns[0]);

function drawTable() {
  const columns = tableColumns();
  const models = tableModels(columns);
  const table = find("numbers");
  table.tHead.replaceChildren(make("tr", {}, ...columns.map(headCell)));
  const lines = models.slice(0, most).map((model) => make("tr", {}, ...columns.map((column) => column.cell(model))));
  table.tBodies[0].replaceChildren(...lines);
  if (!lines.length) {
    table.tBodies[0].append(make("tr", {}, make("td", { colspan: columns.length, class: "fact" }, "no model passes the filters")));
  }
  table.querySelector("td[data-cell]")?.setAttribute("tabindex", 0);
  const left = models.length - lines.length;
  find("more").hidden = left <= 0;
  find("more").textContent = `Show the other ${counted(left, "model")}`;
  saveView();
}

function sortBy(key) {
  const by = /^\d+$/.test(key) ? Number(key) : key;
  const descending = state.sort.by === by ? !state.sort.descending : typeof by === "number";
  state.sort = { by, descending };
  drawTable();
  find("numbers").querySelector(`[data-sort="${CSS.escape(key)}"]`).focus();
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** From a number to the next one in a direction, past empty places. */
function moveInTable(event) {
  const from = event.target.closest("td[data-cell]");
  if (!from) return;
  const step = STEPS[event.key];
  if (!step && event.key !== "Enter") return;
  event.preventDefault(); // else Enter would press the panel's focused button
  if (!step) return openCells([Number(from.dataset.cell)]);
  let [row, column] = [from.parentNode.rowIndex + step[0], from.cellIndex + step[1]];
  const rows = find("numbers").rows;
  for (; rows[row]?.cells[column]; row += step[0], column += step[1]) {
    const to = rows[row].cells[column];
    if (!to.matches("td[data-cell]")) continue;
    from.setAttribute("tabindex", -1);
    to.setAttribute("tabindex", 0);
    return to.focus();
  }
}

function startTable() {
  const table = find("numbers");
  table.addEventListener("click", (event) => {
    const target = event.target.closest("[data-sort], [data-cell], [data-model]");
    if (target?.dataset.sort) sortBy(target.dataset.sort);
    else if (target?.dataset.cell) openCells([Number(target.dataset.cell)]);
    else if (target?.dataset.model) openModel(Number(target.dataset.model));
  });
  table.addEventListener("keydown", moveInTable);
  const point = (event) => {
    const cell = event.target.closest("td[data-cell]");
    if (cell) showTip([Number(cell.dataset.cell)], cell.getBoundingClientRect());
    else hideTip();
  };
  table.addEventListener("pointerover", (event) => event.pointerType !== "touch" && point(event));
  table.addEventListener("focusin", point);
  table.addEventListener("pointerleave", hideTip);
  table.addEventListener("focusout", hideTip);
  find("box").addEventListener("scroll", hideTip);
  find("more").addEventListener("click", () => {
    most = Infinity;
    drawTable();
  });
  for (const name of ["intervals", "published"]) {
    find(name).addEventListener("change", (event) => {
      state[name] = event.target.checked;
      drawTable();
    });
  }
  find("published").parentNode.hidden = !(cells.reference ?? []).some((index) => index >= 0);
}
