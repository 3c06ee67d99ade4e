// The scatter plot: one number against another, one marker per model.

const MARGIN = { left: 58, right: 14, top: 12, bottom: 50 };
const REACH = 26; // pixels: a pointer this close to a marker selects it
let drawnPoints = [];
let current = -1;

/** Models with both numbers, in the plot's coordinates; those without a group first, so below the others. */
function plotPoints(scales) {
  const pairs = chosen().filter((model) => !state.hidden.has(groupOf(model)));
  const points = pairs.map((model) => ({ model, group: groupOf(model), x: cellOf(model, state.x), y: cellOf(model, state.y) }));
  const full = points.filter(({ x, y }) => x >= 0 && y >= 0 && cells.value[x] !== null && cells.value[y] !== null);
  full.sort((a, b) => (a.group >= 0) - (b.group >= 0));
  return full.map((point) => ({ ...point, at: ["x", "y"].map((axis, k) => place(point[axis], "value", scales[k])) }));
}

const place = (cell, end, scale) => transform(cells[end][cell], scale, cells.n[cell]);

/** An axis: coordinates to pixels, its ticks, and the bar of each cell. It covers all models and intervals, so that a
 *  filter moves nothing and the frame cuts no bar. */
function axis(column, scale, from, to) {
  const members = data.models.map((_, model) => cellOf(model, column)).filter((cell) => cell >= 0 && cells.value[cell] !== null);
  const values = members.map((cell) => cells.value[cell]);
  const barred = members.filter((cell) => cells.lo[cell] !== null && cells.hi[cell] !== null);
  const found = endsOnScale(barred.map((cell) => ({ lo: cells.lo[cell], hi: cells.hi[cell], n: cells.n[cell] })), scale);
  const bars = new Map(barred.map((cell, k) => [cell, found[k]]));
  const spots = [...members.map((cell) => place(cell, "value", scale)), ...found.flatMap(({ at }) => at)];
  const [low, high] = spots.length ? extent(spots) : [0, 1];
  const room = 0.06 * (high - low) || 0.1;
  const pixel = (spot) => from + ((spot - low + room) / (high - low + 2 * room)) * (to - from);
  const gap = Math.abs(to - from) > 700 ? 60 : 44;
  const limits = [low - room, high + room].map((spot) => backward(spot, scale));
  const marks = values.length ? ticks(...limits, scale, pixel, from > to ? 24 : gap) : [];
  return { pixel, marks, bars, low: low - room, high: high + room };
}

const extent = (spots) => spots.reduce(([low, high], spot) => [Math.min(low, spot), Math.max(high, spot)], [Infinity, -Infinity]);

function drawPlot() {
  saveView();
  const columns = [state.x, state.y];
  if (columns.includes(null)) return drawNothing();
  const svg = find("plot");
  const scales = columns.map((column, k) => scaleFor(valuesOf(column), wantedScales()[k]));
  const width = Math.max(280, svg.parentNode.clientWidth - 2);
  const height = Math.round(Math.min(560, Math.max(320, 0.62 * width)));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const right = width - MARGIN.right;
  const bottom = height - MARGIN.bottom;
  const x = axis(state.x, scales[0], MARGIN.left, right);
  const y = axis(state.y, scales[1], bottom, MARGIN.top);
  drawnPoints = plotPoints(scales).map((point) => ({ ...point, px: x.pixel(point.at[0]), py: y.pixel(point.at[1]) }));
  const lines = trends(drawnPoints);
  svg.replaceChildren(
    make("clipPath", { id: "inside" }, make("rect", { x: MARGIN.left, y: MARGIN.top, width: right - MARGIN.left, height: bottom - MARGIN.top })),
    frame(x, y, right, bottom, columns, scales),
    make("g", { "clip-path": "url(#inside)" }, ...[state.diagonal && equal(x, y, scales), ...lines.map((trend) => trendLine(trend, x, y))].filter(Boolean)),
    make("g", { "clip-path": "url(#inside)", class: "bars" }, ...(state.bars ? errorBars(x, y) : [])),
    make("g", {}, ...drawnPoints.map(markOf)),
    make("g", { class: "names" }, ...drawnPoints.filter(({ model }) => isStarred(model)).map((point) => nameBeside(point, right))),
    make("circle", { id: "ring", r: 10, hidden: true }),
  );
  current = -1;
  find("save-plot").disabled = false;
  drawLegend();
  describe(columns, scales);
  listTrends(lines, scales);
}

const wantedScales = () => [state.xScale, state.yScale];

/** Without a number on each axis: why, and what to do. */
function drawNothing() {
  drawnPoints = [];
  current = -1;
  find("plot").replaceChildren();
  find("plot").setAttribute("height", 0);
  find("save-plot").disabled = true;
  drawLegend();
  listTrends([], []);
  const unrelated = "No model has one metric on two data sets, so no two of these numbers are drawn unasked. ";
  const why = data.axes === null && state.x === state.y ? unrelated : "";
  find("plot-note").textContent = all.length ? `${why}Choose a number for each axis.` : "There are no numbers to plot.";
}

const valuesOf = (column) =>
  data.models.map((_, model) => valueOf(model, column)).filter((value) => value !== null);

/** Grid, ticks and titles. */
function frame(x, y, right, bottom, columns, scales) {
  const text = (value, attributes) => make("text", attributes, String(value));
  const down = x.marks.flatMap(([value, px]) => [
    make("line", { class: "grid", x1: px, x2: px, y1: MARGIN.top, y2: bottom }),
    text(value, { x: px, y: bottom + 17, "text-anchor": "middle" }),
  ]);
  const across = y.marks.flatMap(([value, py]) => [
    make("line", { class: "grid", x1: MARGIN.left, x2: right, y1: py, y2: py }),
    text(value, { x: MARGIN.left - 7, y: py + 4, "text-anchor": "end" }),
  ]);
  const [xTitle, yTitle] = columns.map((column, k) => fitted(axisTitle(column, scales[k]), k ? bottom - MARGIN.top : right - MARGIN.left));
  const middle = (MARGIN.top + bottom) / 2;
  return make(
    "g",
    {},
    ...down,
    ...across,
    make("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
    make("line", { class: "axis", x1: MARGIN.left, x2: MARGIN.left, y1: MARGIN.top, y2: bottom }),
    text(xTitle, { class: "title", x: (MARGIN.left + right) / 2, y: bottom + 40, "text-anchor": "middle" }),
    text(yTitle, { class: "title", x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }),
  );
}

const axisTitle = (column, scale) => nameOf(column) + (scale === "linear" ? "" : ` (${scale})`);

/** A text cut to a length in pixels; the selects above have the whole. */
function fitted(text, pixels) {
  const room = Math.floor(pixels / 6.6);
  return text.length <= room ? text : `${text.slice(0, room - 1)}…`;
}

/** A model's marker, or its star; with a ring if the user states its facts. */
function markOf({ model, group, px, py }) {
  const place = { transform: `translate(${px.toFixed(1)},${py.toFixed(1)})` };
  const mark = isStarred(model) ? star(groupAt(group), place) : marker(groupAt(group), place);
  return isStated(model) ? make("g", {}, mark, make("circle", { class: "stated", cx: px, cy: py, r: 9 })) : mark;
}

/** The name of a highlighted model, on the side that has room. */
function nameBeside({ model, px, py }, right) {
  const left = px > (MARGIN.left + right) / 2;
  return make("text", { class: "title", x: px + (left ? -13 : 13), y: py - 6, "text-anchor": left ? "end" : "start" }, data.models[model]);
}

/** Bars of all points; a head marks an end that the scale cuts. */
function errorBars(x, y) {
  return drawnPoints.flatMap((point) => {
    const stroke = inkOf(groupAt(point.group));
    const [across, up] = [x.bars.get(point.x), y.bars.get(point.y)];
    const found = [];
    if (across) {
      const [x1, x2] = across.at.map(x.pixel);
      found.push(make("line", { stroke, x1, x2, y1: point.py, y2: point.py }), ...heads([[x1, -1, 0], [x2, 1, 0]], across.cut, stroke, point));
    }
    if (up) {
      const [y1, y2] = up.at.map(y.pixel);
      found.push(make("line", { stroke, y1, y2, x1: point.px, x2: point.px }), ...heads([[y1, 0, 1], [y2, 0, -1]], up.cut, stroke, point));
    }
    return found;
  });
}

/** Arrow heads at the cut ends of a bar; each end: its pixel and its direction. */
function heads(ends, cut, fill, { px, py }) {
  return ends.filter((_, k) => cut[k]).map(([at, dx, dy]) => {
    const [tx, ty] = dx ? [at, py] : [px, at];
    const corner = (side) => `${tx - 5 * dx + 3 * side * dy},${ty - 5 * dy + 3 * side * dx}`;
    return make("path", { class: "cut", fill, d: `M${tx},${ty}L${corner(1)}L${corner(-1)}Z` });
  });
}

/** The line of equal numbers, where both axes have one scale. */
function equal(x, y, scales) {
  if (scales[0] !== scales[1]) return null;
  const [low, high] = [Math.max(x.low, y.low), Math.min(x.high, y.high)];
  if (low >= high) return null;
  return make("line", { class: "equal", x1: x.pixel(low), y1: y.pixel(low), x2: x.pixel(high), y2: y.pixel(high) });
}

/** A line for each group with three or more models that are not all at one place. */
function trends(points) {
  if (state.fit === "none") return [];
  const groups = [...new Set(points.map((point) => point.group))].sort((a, b) => a - b);
  return groups.flatMap((group) => {
    if (group >= 0 && group === scheme().yours) return []; // the user's models of no group have nothing in common
    const members = points.filter((point) => point.group === group).map((point) => point.at);
    if (members.length < 3 || new Set(members.map(([x]) => x)).size < 2) return [];
    const [slope, intercept] = line(members, state.fit);
    return [{ group, slope, intercept, n: members.length, ends: [Math.min, Math.max].map((end) => end(...members.map(([x]) => x))) }];
  });
}

function trendLine({ group, slope, intercept, ends }, x, y) {
  const [x1, x2] = ends.map(x.pixel);
  const [y1, y2] = ends.map((end) => y.pixel(intercept + slope * end));
  return make("line", { class: "trend", stroke: inkOf(groupAt(group)), x1, y1, x2, y2 });
}

function listTrends(lines, scales) {
  find("fits").hidden = !lines.length;
  const head = make("tr", {}, ...["group", "models", "slope", "intercept"].map((title) => make("th", { scope: "col" }, title)));
  const rows = lines.map(({ group, slope, intercept, n }) =>
    make("tr", {}, make("th", { scope: "row" }, groupAt(group).title), ...[n, slope, intercept].map((v) => make("td", {}, String(Number(v.toPrecision(4)))))),
  );
  const table = find("fits").querySelector("table");
  table.replaceChildren(make("caption", {}, `${state.fit === "ols" ? "Least squares" : "Huber's regression"}, x on a ${scales[0]} scale, y on a ${scales[1]} scale`), make("thead", {}, head), make("tbody", {}, ...rows));
}

function describe(columns, scales) {
  const [x, y] = columns.map(nameOf);
  find("plot").setAttribute("aria-label", `Scatter plot of ${y} against ${x}, ${counted(drawnPoints.length, "model")}`);
  const why = columns.map((column, k) => {
    const wanted = wantedScales()[k];
    return scales[k] === wanted ? "" : ` No ${wanted} scale for ${titleOf(column).metric}: its values are not ${wanted === "log" ? "positive" : "fractions"}.`;
  });
  const stated = drawnPoints.some(({ model }) => isStated(model)) ? ` A ring: ${STATED}.` : "";
  const cut = state.bars && find("plot").querySelector(".cut") ? " An arrow: an interval that the scale cuts, at 0 or 1." : "";
  find("plot-note").textContent = `${counted(drawnPoints.length, "model")} ${drawnPoints.length === 1 ? "has" : "have"} both numbers.${[...new Set(why)].join("")}${stated}${cut}`;
}

function drawLegend() {
  const members = chosen();
  const count = (group) => members.filter((model) => groupOf(model) === group).length;
  const groups = [...scheme().groups.keys(), -1].filter((group) => scheme().of.includes(group));
  const buttons = groups.map((group) => {
    const number = count(group);
    const pressed = !state.hidden.has(group);
    const attributes = { type: "button", "data-group": group, "aria-pressed": String(pressed) };
    return make("button", attributes, glyph(groupAt(group)), make("span", {}, groupAt(group).title), make("small", {}, number));
  });
  find("legend").replaceChildren(...buttons);
}

/** Make the k-th point current: a ring, its numbers beside it, and spoken. */
function pointTo(k) {
  current = k;
  const ring = find("ring");
  if (k < 0) {
    ring?.setAttribute("hidden", "");
    return hideTip();
  }
  const { px, py, x, y } = drawnPoints[k];
  ring.removeAttribute("hidden");
  ring.setAttribute("cx", px);
  ring.setAttribute("cy", py);
  const box = find("plot").getBoundingClientRect();
  const scale = box.width / find("plot").viewBox.baseVal.width;
  showTip([x, y], new DOMRect(box.left + px * scale - 8, box.top + py * scale - 8, 16, 16));
}

function nearest(event) {
  const svg = find("plot");
  const box = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / box.width;
  const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const away = drawnPoints.map((point) => Math.hypot(point.px - px, point.py - py));
  const k = away.indexOf(Math.min(...away));
  return away[k] <= REACH ? k : -1;
}

/** Arrow keys: the next point to the right or left, or up or down. */
function stepInPlot(event) {
  if (event.key === "Escape") return pointTo(-1);
  const step = STEPS[event.key];
  const opens = event.key === "Enter" && current >= 0;
  if (!opens && !(step && drawnPoints.length)) return;
  event.preventDefault();
  if (opens) return openPoint(drawnPoints[current]);
  const key = step[1] ? (point) => point.px : (point) => -point.py;
  const order = [...drawnPoints.keys()].sort((a, b) => key(drawnPoints[a]) - key(drawnPoints[b]) || a - b);
  const forward = step[1] > 0 || step[0] < 0 ? 1 : -1;
  const at = current < 0 ? (forward > 0 ? -1 : order.length) : order.indexOf(current);
  pointTo(order[Math.min(Math.max(at + forward, 0), order.length - 1)]);
}

const openPoint = ({ x, y }) => openCells(x === y ? [x] : [x, y]);

function startPlot() {
  const svg = find("plot");
  svg.addEventListener("pointermove", (event) => {
    const k = nearest(event);
    if (k !== current) pointTo(k);
  });
  svg.addEventListener("pointerleave", () => pointTo(-1));
  svg.addEventListener("click", (event) => {
    const k = nearest(event);
    if (k >= 0) openPoint(drawnPoints[k]);
  });
  svg.addEventListener("keydown", stepInPlot);
  svg.addEventListener("blur", () => pointTo(-1));
  find("legend").addEventListener("click", (event) => {
    const button = event.target.closest("[data-group]");
    if (!button) return;
    const group = Number(button.dataset.group);
    if (!state.hidden.delete(group)) state.hidden.add(group);
    drawPlot();
    find("legend").querySelector(`[data-group="${group}"]`).focus();
  });
  new ResizeObserver(() => drawPlot()).observe(svg.parentNode);
}
