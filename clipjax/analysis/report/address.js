// The reader's choices in the page's address, by name, so that a link shows the same again. Only what differs from the
// first view is there; what this page does not have is passed over.

const keyOfColumn = (column) => {
  const { task, dataset, metric, slice, ways } = data.columns[column];
  return [task, dataset, metric, slice ?? "", ...ways.flat()].join("|");
};
const columnOf = new Map([...all].reverse().map((column) => [keyOfColumn(column), column]));

const oneOf = (known) => ({ write: (value) => [value], read: ([text]) => (known(text) ? text : undefined) });
const flag = { write: (on) => [on ? "1" : "0"], read: ([text]) => text === "1" };
const axisColumn = { write: (column) => [column === null ? "" : keyOfColumn(column)], read: ([text]) => columnOf.get(text) ?? null };
const selected = (id) => oneOf((text) => [...find(id).options].some((option) => option.value === text));
const groupTitle = (group) => groupAt(Number(group)).title;
const groupTitled = (title) => [...scheme().groups.keys(), -1].find((group) => groupTitle(group) === title);
const isThere = (value) => value !== undefined;
// An empty list is one empty text.
const list = (write, read) => ({
  write: (values) => (values.length ? values.map(write) : [""]),
  read: (texts) => texts.filter(Boolean).map(read).filter(isThere),
});

// Name -> how a choice is written and read. The scheme comes before its groups.
const VIEW = {
  scheme: {
    write: (k) => [data.schemes[k].title],
    read: ([title]) => (data.schemes.some((one) => one.title === title) ? data.schemes.findIndex((one) => one.title === title) : undefined),
  },
  search: oneOf(() => true),
  group: {
    write: (group) => [group === "" ? "" : groupTitle(group)],
    read: ([title]) => (isThere(groupTitled(title)) ? String(groupTitled(title)) : ""),
  },
  source: selected("source"),
  hidden: { write: (groups) => (groups.size ? [...groups].sort((a, b) => a - b).map(groupTitle) : [""]), read: (texts) => new Set(texts.map(groupTitled).filter(isThere)) },
  x: axisColumn,
  y: axisColumn,
  xScale: selected("x-scale"),
  yScale: selected("y-scale"),
  fit: selected("fit"),
  bars: flag,
  diagonal: flag,
  columns: list(keyOfColumn, (key) => columnOf.get(key)),
  facts: list(String, (fact) => (fact in FACTS ? fact : undefined)),
  intervals: flag,
  published: flag,
  sort: {
    write: ({ by, descending }) => [(descending ? "-" : "") + (typeof by === "number" ? keyOfColumn(by) : by)],
    read: ([text]) => {
      const key = text.replace(/^-/, "");
      return { by: columnOf.get(key) ?? (key.startsWith("fact:") ? key : "model"), descending: text.startsWith("-") };
    },
  },
  tables: list(([id, column, way]) => [id, column, way].join(" "), (text) => {
    const [id, column, way] = text.split(" ");
    return sortableTables().some((table) => table.id === id && table.tHead.rows[0].cells[column]) ? [id, Number(column), way] : undefined;
  }),
};

let firstView = null;
let written = "";
let waiting = 0;

const viewNow = () => Object.fromEntries(Object.entries(VIEW).map(([name, { write }]) => [name, write(state[name])]));

function addressText() {
  const params = new URLSearchParams();
  for (const [name, texts] of Object.entries(viewNow())) {
    if (texts.join("\n") !== firstView[name].join("\n")) for (const text of texts) params.append(name, text);
  }
  return params.toString();
}

/** Soon, once for a word typed in a row: browsers limit how often an address changes. */
function saveView() {
  clearTimeout(waiting);
  waiting = setTimeout(writeAddress, 200);
}

function writeAddress(force) {
  const text = addressText();
  if (text === written && !force) return;
  written = text;
  history.replaceState(null, "", text ? `#${text}` : location.href.split("#")[0]);
}

/** Take over the address; the name of a place on the page leaves the view as it is. */
function readAddress() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return false;
  const params = new URLSearchParams(text);
  for (const [name, { read }] of Object.entries(VIEW)) {
    const value = params.has(name) ? read(params.getAll(name)) : undefined;
    state[name] = value ?? read(firstView[name]);
  }
  written = addressText();
  return true;
}

function startAddress() {
  firstView = viewNow();
  addEventListener("hashchange", () => {
    if (readAddress()) showView();
    else writeAddress(true);
  });
  if (location.hash.includes("=")) readAddress();
}
