// The page's data: the embedded rows, decoded when needed, and the reader's choices.

const data = JSON.parse(document.getElementById("data").textContent);
for (const name of ["cells", "runs"]) {
  const { count, columns } = data[name];
  const whole = ([key, values]) => [key, Array.isArray(values) ? values : Array(count).fill(values.every)];
  data[name] = Object.fromEntries(Object.entries(columns).map(whole));
}
const cells = data.cells;
const MODELS = data.models.length;
const find = (id) => document.getElementById(id);

// The cell of each model and column: its index, or -1.
const cellAt = new Int32Array(MODELS * data.columns.length).fill(-1);
(cells.model ?? []).forEach((model, i) => (cellAt[cells.column[i] * MODELS + model] = i));
const cellOf = (model, column) => cellAt[column * MODELS + model];
const valueOf = (model, column) => {
  const cell = cellOf(model, column);
  return cell < 0 ? null : cells.value[cell];
};

const interned = (index) => (index < 0 ? null : data.interned[index]);

/** An interned object: [index of its keys, index of each value ...]. */
function record(index) {
  if (index < 0) return null;
  const [keys, ...values] = data.interned[index];
  return Object.fromEntries(data.interned[keys].map((key, k) => [key, interned(values[k])]));
}

const facts = data.facts.map(record);

/** The name of a column in pieces: its data, its metric, and the way of measuring. */
function titleOf(column) {
  const { task, dataset, metric, slice, ways } = data.columns[column];
  const more = [slice, ...ways.map((pair) => pair.join(" "))].filter(Boolean);
  return { task, dataset, metric, more: more.join(", ") };
}
const nameOf = (column) => {
  const { dataset, metric, more } = titleOf(column);
  return [metric, dataset, more].filter(Boolean).join(" · ");
};

/** "1 model", "3 models". */
const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

/** A number as tables show it: three decimals, fewer for large ones. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 10 ? value.toFixed(2) : value.toFixed(3);
}
const signed = (value) => (value < 0 ? "−" : "+") + short(Math.abs(value));
const limits = (cell) => (cells.lo[cell] === null ? null : `[${short(cells.lo[cell])}, ${short(cells.hi[cell])}]`);
const originOf = (cell) => interned(data.runs.origin[cells.run[cell]]);
const partOf = (cell) => interned(data.runs.part[cells.run[cell]]);
const referencesOf = (cell) => interned(cells.reference[cell]) ?? [];

// The paper's columns if there are any, else one per data set. Among several ways, and if not all fit, the columns
// that most models have.
const once = (key) => {
  const seen = new Set();
  return (column) => !seen.has(key(column)) && seen.add(key(column));
};
const all = data.columns.map((_, column) => column);
const coverage = all.map(() => 0);
(cells.column ?? []).forEach((column, i) => (coverage[column] += cells.value[i] !== null));
const byCoverage = [...all].sort((a, b) => coverage[b] - coverage[a] || a - b);
const headlines = byCoverage.filter((c) => data.columns[c].headline).filter(once((c) => nameOf(c).split(" · ", 2).join()));
const firsts = byCoverage.filter(once((c) => [data.columns[c].task, data.columns[c].dataset].join()));
const FIRST = (headlines.length ? headlines : firsts).slice(0, 16).sort((a, b) => a - b);

const state = {
  search: "",
  scheme: defaultScheme(),
  group: "",
  source: "",
  columns: FIRST,
  facts: innerWidth < 640 ? [] : ["train_source", "licence"],
  sort: { by: "model", descending: false },
  intervals: false,
  published: false,
  hidden: new Set(),
  x: data.axes?.[0] ?? null, // null: no number
  y: data.axes?.[1] ?? null,
  xScale: "probit",
  yScale: "probit",
  fit: "none",
  bars: true,
  diagonal: false,
  tables: [],
};

/** The first scheme that has a group for at least half of the models. */
function defaultScheme() {
  const places = data.schemes.map((scheme) => scheme.of.filter((group) => group >= 0 && group !== scheme.yours).length);
  const good = places.findIndex((count) => 2 * count >= MODELS);
  return good < 0 ? data.schemes.length - 1 : good;
}

const OTHER = { title: "others", colour: "#8A8A8A", marker: "o", filled: false };
const scheme = () => data.schemes[state.scheme];
const groupOf = (model) => scheme().of[model];
const groupAt = (index) => (index < 0 ? OTHER : scheme().groups[index]);
const isStated = (model) => facts[model]?.facts_origin === "stated";
const STATED = "facts stated by the user";
const isStarred = (model) => data.highlight.includes(model);
const sourceOf = (model) => facts[model]?.train_source ?? null;

/** The models that pass search and filters. */
function chosen() {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  return data.models.map((_, model) => model).filter((model) => {
    const name = data.models[model].toLowerCase();
    if (!words.every((word) => name.includes(word))) return false;
    if (state.source !== "" && String(sourceOf(model)) !== state.source) return false;
    return state.group === "" || groupOf(model) === Number(state.group);
  });
}

/** An element; text is only ever set as text, so that a name is never read as markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "text", "circle", "rect", "title", "clipPath"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
