// Which columns the table has.

function drawChoices() {
  const words = find("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Map([["models", []]]);
  for (const [fact, title] of Object.entries(FACTS)) groups.get("models").push([`fact:${fact}`, title]);
  for (const column of all) {
    const { task } = data.columns[column];
    if (!groups.has(task)) groups.set(task, []);
    groups.get(task).push([String(column), nameOf(column)]);
  }
  const sets = [...groups].map(([title, choices]) => {
    const found = choices.filter(([, name]) => words.every((word) => `${title} ${name}`.toLowerCase().includes(word)));
    return found.length ? make("fieldset", {}, make("legend", {}, title), ...found.map(choice)) : null;
  });
  find("choices").replaceChildren(...sets.filter(Boolean));
}

function choice([key, name]) {
  const isFact = key.startsWith("fact:");
  const on = isFact ? state.facts.includes(key.slice(5)) : state.columns.includes(Number(key));
  return make("label", { class: "tick" }, make("input", { type: "checkbox", value: key, checked: on }), name);
}

/** Columns stay in the page's order, whatever the order of choosing. */
function choose(columns) {
  const wanted = new Set(columns);
  state.columns = all.filter((column) => wanted.has(column));
  drawTable();
}

function startChooser() {
  find("chooser").addEventListener("toggle", drawChoices);
  find("find").addEventListener("input", drawChoices);
  find("choices").addEventListener("change", ({ target }) => {
    const isFact = target.value.startsWith("fact:");
    const [key, list] = isFact ? [target.value.slice(5), state.facts] : [Number(target.value), state.columns];
    const next = target.checked ? [...list, key] : list.filter((one) => one !== key);
    if (isFact) state.facts = Object.keys(FACTS).filter((fact) => next.includes(fact));
    choose(isFact ? state.columns : next);
  });
  const listed = () => [...find("choices").querySelectorAll("input")].map((input) => Number(input.value)).filter(Number.isInteger);
  const buttons = { first: () => FIRST, all: () => [...state.columns, ...listed()], none: () => [] };
  for (const [id, columns] of Object.entries(buttons)) {
    find(id).addEventListener("click", () => {
      choose(columns());
      drawChoices();
    });
  }
  document.addEventListener("click", (event) => {
    if (!find("chooser").contains(event.target)) find("chooser").open = false;
  });
  find("chooser").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    find("chooser").open = false;
    find("chooser").querySelector("summary").focus();
  });
}
