// Scales of an axis and straight lines on them; the rules of clipjax/analysis/rows/scales.py and trends/.

const UNKNOWN_N = 50000;

// Normal quantile: algorithm AS 241, PPND16 (Wichura 1988); coefficients from the highest power down.
const CENTRE = [
  [2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608],
  [5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1],
];
const MIDDLE = [
  [7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258, 3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459, 0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1],
];
const TAIL = [
  [2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093, 0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772],
  [2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4, 0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1],
];
const ratio = ([top, bottom], r) => top.reduce((sum, c) => sum * r + c, 0) / bottom.reduce((sum, c) => sum * r + c, 0);

function probit(p) {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q);
  const r = Math.sqrt(-Math.log(q < 0 ? p : 1 - p));
  return Math.sign(q) * (r <= 5 ? ratio(MIDDLE, r - 1.6) : ratio(TAIL, r - 5));
}

const FORWARD = { probit, logit: (p) => Math.log(p / (1 - p)), log: Math.log, linear: (value) => value };

// Values at coordinates, only for the ends of an axis: the normal distribution by bisection.
const BACKWARD = { logit: (at) => 1 / (1 + Math.exp(-at)), log: Math.exp, linear: (at) => at };
function backward(at, scale) {
  if (scale !== "probit") return BACKWARD[scale](at);
  let [low, high] = [1e-300, 1 - 2 ** -53];
  for (let k = 0; k < 60; k++) {
    const middle = (low + high) / 2;
    if (probit(middle) < at) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** A value's coordinate; fractions stay half an image off 0 and 1. */
function transform(value, scale, n = null) {
  if (scale === "probit" || scale === "logit") {
    const edge = 0.5 / (n > 0 ? n : UNKNOWN_N);
    value = Math.min(Math.max(value, edge), 1 - edge);
  }
  return FORWARD[scale](value);
}

/** Coordinates of the ends of intervals { lo, hi, n }, and whether the scale cuts them: half an image off 0 and 1, on
 *  a log scale at half the smallest positive end. As ends_on_scale. */
function endsOnScale(intervals, scale) {
  const floor = Math.min(...intervals.flatMap(({ lo, hi }) => [lo, hi]).filter((end) => end > 0)) / 2;
  const inside = (end, n) => {
    if (scale === "log") return end > 0 ? end : Number.isFinite(floor) ? floor : 1;
    if (scale === "linear") return end;
    const edge = 0.5 / (n > 0 ? n : UNKNOWN_N);
    return Math.min(Math.max(end, edge), 1 - edge);
  };
  return intervals.map(({ lo, hi, n }) => {
    const kept = [inside(lo, n), inside(hi, n)];
    return { at: kept.map(FORWARD[scale]), cut: [kept[0] !== lo, kept[1] !== hi] };
  });
}

/** The wanted scale if all values fit it, else linear. */
function scaleFor(values, wanted) {
  const fraction = values.every((value) => value >= 0 && value <= 1);
  if (wanted === "log") return values.every((value) => value > 0) ? "log" : "linear";
  return wanted === "linear" || fraction ? wanted : "linear";
}

const FRACTIONS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999];

const [FEWEST, MOST] = [5, 7]; // ticks of an axis
const STEPS_OF_TICKS = [1, 2, 5, 2.5, 4, 3, 6, 8, 1.5]; // plain ones first; with any power of ten

/** The ticks of an axis between two values, as [value, pixel] at least `gap` pixels apart. */
function ticks(low, high, scale, pixel, gap) {
  const decades = Array.from({ length: 13 }, (_, k) => [1, 2, 5].map((m) => m * 10 ** (k - 6))).flat();
  const listed = { probit: FRACTIONS, logit: FRACTIONS, log: decades, linear: [] }[scale];
  const [found, even] = [listed.filter((value) => value >= low && value <= high), evenTicks(low, high)].map((values) => {
    let last = -Infinity;
    const placed = values.map((value) => [value, pixel(transform(value, scale))]);
    return placed.filter(([, spot]) => Math.abs(spot - last) >= gap && ((last = spot), true));
  });
  return found.length >= FEWEST || found.length > even.length ? found : even;
}

/** Ticks at equal distances by the plainest step; as _even in clipjax/analysis/figures/panels/axes.py. */
function evenTicks(low, high) {
  const unit = 10 ** Math.floor(Math.log10((high - low) / (MOST + 1)));
  for (const step of STEPS_OF_TICKS.flatMap((plain) => [10 * plain * unit, plain * unit])) {
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    if (count >= FEWEST && count <= MOST) return Array.from({ length: count }, (_, k) => Number(((first + k) * step).toPrecision(12)));
  }
  return [];
}

const NORMAL_MAD = 0.6744897501960817;
const HUBER_K = 1.345;

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Weighted least squares through points [x, y]: [slope, intercept]. */
function leastSquares(points, weights) {
  const total = weights.reduce((sum, w) => sum + w, 0);
  const mean = (k) => points.reduce((sum, point, i) => sum + weights[i] * point[k], 0) / total;
  const [x, y] = [mean(0), mean(1)];
  const across = points.reduce((sum, point, i) => sum + weights[i] * (point[0] - x) ** 2, 0);
  const along = points.reduce((sum, point, i) => sum + weights[i] * (point[0] - x) * (point[1] - y), 0);
  return [along / across, y - (along / across) * x];
}

/** The line through points by "ols" or "huber" (iteratively reweighted, as clipjax/analysis/trends/regression.py). */
function line(points, method) {
  let found = leastSquares(points, points.map(() => 1));
  const size = Math.max(...points.map(([, y]) => Math.abs(y)));
  const ends = [Math.min, Math.max].map((end) => end(...points.map(([x]) => x)));
  for (let round = 0; method === "huber" && round < 500; round++) {
    const residuals = points.map(([x, y]) => Math.abs(y - found[1] - found[0] * x));
    const scale = median(residuals) / NORMAL_MAD;
    if (!(scale > 1e-13 * size)) break;
    const next = leastSquares(points, residuals.map((r) => HUBER_K / Math.max(r / scale, HUBER_K)));
    const moved = Math.max(...ends.map((x) => Math.abs(next[1] - found[1] + (next[0] - found[0]) * x)));
    found = next;
    if (moved <= 1e-10 * scale) break;
  }
  return found;
}
