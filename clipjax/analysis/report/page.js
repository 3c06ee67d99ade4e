// The page: its selects and what follows from them.

const options = (select, entries, chosenValue) =>
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, selected: String(value) === String(chosenValue) }, text)));

function fillSelects() {
  options(find("scheme"), data.schemes.map(({ title }, k) => [k, title]), state.scheme);
  fillGroups();
  const sources = [...new Set(data.models.map((_, model) => sourceOf(model)).filter((source) => source !== null))].map(String).sort();
  options(find("source"), [["", "all"], ...sources.map((source) => [source, source])], "");
  for (const name of ["x", "y"]) fillAxis(name);
}

/** The selects of an axis: the tasks, and the numbers of the chosen one. */
function fillAxis(name) {
  const { task } = data.columns[state[name]] ?? {};
  const tasks = [...new Set(data.columns.map((column) => column.task))];
  options(find(`${name}-task`), tasks.map((one) => [one, spelt(one)]), task);
  find(name).replaceChildren(...numbersOf(task, state[name]));
}

function fillGroups() {
  const others = scheme().of.includes(-1) ? [[-1, OTHER.title]] : [];
  options(find("group"), [["", "all"], ...scheme().groups.map(({ title }, k) => [k, title]), ...others], state.group);
}

/** A task's columns as options, one group per data set. */
function numbersOf(task, selected) {
  const groups = new Map();
  for (const column of all.filter((one) => data.columns[one].task === task)) {
    const { dataset } = titleOf(column);
    if (!groups.has(dataset)) groups.set(dataset, make("optgroup", { label: dataset }));
    groups.get(dataset).append(make("option", { value: column, selected: column === selected }, nameOf(column)));
  }
  return [...groups.values()];
}

/** The number that most models have, and the one that most of those also have; the paper's numbers first. */
function firstAxes() {
  const some = FIRST.length > 1 ? FIRST : all;
  const most = (columns, count) => columns.reduce((best, one) => (count(one) > count(best) ? one : best), columns[0] ?? 0);
  const x = most(some, (column) => coverage[column]);
  const both = (y) => data.models.filter((_, model) => valueOf(model, x) !== null && valueOf(model, y) !== null).length;
  const others = some.filter((column) => column !== x);
  return [x, others.length ? most(others, both) : x];
}

function drawAll() {
  drawTable();
  drawPlot();
  const models = chosen().length;
  find("count").textContent = models === MODELS ? `${MODELS} models` : `${models} of ${MODELS} models`;
}

function startFilters() {
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("search").addEventListener("input", (event) => {
    state.search = event.target.value;
    drawAll();
  });
  find("scheme").addEventListener("change", (event) => {
    Object.assign(state, { scheme: Number(event.target.value), group: "", hidden: new Set() });
    fillGroups();
    drawAll();
  });
  for (const name of ["group", "source"]) {
    find(name).addEventListener("change", (event) => {
      state[name] = event.target.value;
      drawAll();
    });
  }
}

function startAxes() {
  const changed = (name, value) => {
    state[name] = value;
    drawPlot();
  };
  for (const name of ["x", "y"]) {
    find(name).addEventListener("change", (event) => changed(name, Number(event.target.value)));
    find(`${name}-task`).addEventListener("change", ({ target }) => {
      changed(name, all.find((column) => data.columns[column].task === target.value));
      fillAxis(name);
    });
  }
  for (const name of ["scale", "fit"]) find(name).addEventListener("change", (event) => changed(name, event.target.value));
  for (const name of ["bars", "diagonal"]) find(name).addEventListener("change", (event) => changed(name, event.target.checked));
  find("swap").addEventListener("click", () => {
    [state.x, state.y] = [state.y, state.x];
    for (const name of ["x", "y"]) fillAxis(name);
    drawPlot();
  });
}

[state.x, state.y] = firstAxes();
fillSelects();
startFilters();
startAxes();
startTable();
startChooser();
startDetails();
startSortable();
drawAll();
startPlot();
document.documentElement.dataset.ready = "";
