// Markers of groups, by matplotlib's names, and their colours on light and dark paper.

const polygon = (corners) => `M${corners.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join("L")}Z`;
const around = (count, radius, turn = 0) =>
  Array.from({ length: count }, (_, k) => {
    const angle = (2 * Math.PI * k) / count - Math.PI / 2 + turn;
    const r = typeof radius === "number" ? radius : radius[k % radius.length];
    return [r * Math.cos(angle), r * Math.sin(angle)];
  });
const PLUS = [[-1.6, -5], [1.6, -5], [1.6, -1.6], [5, -1.6], [5, 1.6], [1.6, 1.6], [1.6, 5], [-1.6, 5], [-1.6, 1.6], [-5, 1.6], [-5, -1.6], [-1.6, -1.6]];
const turned = (corners) => corners.map(([x, y]) => [(x - y) * Math.SQRT1_2, (x + y) * Math.SQRT1_2]);

const MARKERS = {
  o: "M-4.4,0a4.4,4.4 0 1,0 8.8,0a4.4,4.4 0 1,0 -8.8,0Z",
  s: polygon(around(4, 5.4, Math.PI / 4)),
  D: polygon(around(4, 5.4)),
  "^": polygon(around(3, 5.4)),
  v: polygon(around(3, 5.4, Math.PI)),
  "<": polygon(around(3, 5.4, -Math.PI / 2)),
  ">": polygon(around(3, 5.4, Math.PI / 2)),
  p: polygon(around(5, 5.2)),
  h: polygon(around(6, 5.2)),
  P: polygon(PLUS),
  X: polygon(turned(PLUS)),
  "*": polygon(around(10, [6.8, 2.9])),
};

/** A group's colour; black becomes the colour of text, to show on dark paper. */
const inkOf = (group) => (group.colour.toLowerCase() === "#000000" ? "var(--ink)" : group.colour);

/** The marker of a group around 0, 0. */
function marker(group, attributes = {}) {
  const fill = group.filled ? inkOf(group) : "var(--paper)";
  const edge = group.filled ? "var(--paper)" : inkOf(group);
  const width = group.filled ? 0.8 : 1.6;
  return make("path", { d: MARKERS[group.marker] ?? MARKERS.o, fill, stroke: edge, "stroke-width": width, ...attributes });
}

/** The star of a highlighted model, in its group's colour. */
const star = (group, attributes = {}) =>
  make("path", { d: polygon(around(10, [11, 4.6])), fill: inkOf(group), stroke: "var(--ink)", "stroke-width": 1, ...attributes });

/** The marker as a small picture beside a text. */
const glyph = (group) =>
  make("svg", { class: "glyph", viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, marker(group));
