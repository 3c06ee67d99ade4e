// The page: its selects and what follows from them.

const options = (select, entries, chosenValue) =>
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, selected: String(value) === String(chosenValue) }, text)));

function fillSelects() {
  options(find("scheme"), data.schemes.map(({ title }, k) => [k, title]), state.scheme);
  fillGroups();
  const sources = [...new Set(data.models.map((_, model) => sourceOf(model)).filter((source) => source !== null))].map(String).sort();
  options(find("source"), [["", "all"], ...sources.map((source) => [source, source])], state.source);
  for (const name of ["x", "y"]) fillAxis(name);
}

/** Controls and drawings as the state has them. */
function showView() {
  fillSelects();
  find("search").value = state.search;
  for (const [name, id] of [["xScale", "x-scale"], ["yScale", "y-scale"], ["fit", "fit"]]) find(id).value = state[name];
  for (const name of ["bars", "diagonal", "intervals", "published"]) find(name).checked = state[name];
  sortAll();
  drawChoices();
  drawAll();
}

/** The selects of an axis: the tasks, and the numbers of the chosen one. */
function fillAxis(name) {
  const { task } = data.columns[state[name]] ?? {};
  const tasks = [...new Set(data.columns.map((column) => column.task))];
  const none = state[name] === null ? [["", "choose"]] : [];
  options(find(`${name}-task`), [...none, ...tasks.map((one) => [one, spelt(one)])], task);
  find(name).replaceChildren(...(task === undefined ? [make("option", { value: "" }, "a task first")] : numbersOf(task, state[name])));
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

function drawAll() {
  drawTable();
  drawPlot();
  const models = chosen().length;
  find("count").textContent = (models === MODELS ? "" : `${models} of `) + counted(MODELS, "model");
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
    find(name).addEventListener("change", ({ target }) => target.value && changed(name, Number(target.value)));
    find(`${name}-task`).addEventListener("change", ({ target }) => {
      changed(name, all.find((column) => data.columns[column].task === target.value));
      fillAxis(name);
    });
  }
  for (const [name, id] of [["xScale", "x-scale"], ["yScale", "y-scale"], ["fit", "fit"]]) {
    find(id).addEventListener("change", (event) => changed(name, event.target.value));
  }
  for (const name of ["bars", "diagonal"]) find(name).addEventListener("change", (event) => changed(name, event.target.checked));
  find("swap").addEventListener("click", () => {
    [state.x, state.y, state.xScale, state.yScale] = [state.y, state.x, state.yScale, state.xScale];
    showView();
  });
}

fillSelects();
startAddress();
startFilters();
startAxes();
startTable();
startChooser();
startDetails();
startSortable();
startSaving();
showView();
startPlot();
document.documentElement.dataset.ready = "";
