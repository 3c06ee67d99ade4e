"""Straight lines through many sets of points at once: least squares and Huber's M-estimator.

Huber's (1964, 1981) is reweighted least squares, as statsmodels' RLM with HuberT and seaborn's robust=True.
From least squares, repeat until no fitted value moves:

    scale = median(|residual|) / 0.6745, about 0
    weight = min(1, k scale / |residual|), k = 1.345
    line = weighted least squares

RLM's stopping rule depends on y's unit; once converged, both agree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.stats

METHODS = ("huber", "ols")
K = 1.345
_NORMAL_MAD = float(scipy.stats.norm.ppf(0.75))
_ROUNDING = 1e-13  # relative to y: residuals below are rounding errors
# Points computed at a time, to fit the CPU's cache. Sets are independent, so results do not change.
_BLOCK = 2**17
# With fewer points lines at rest may be far apart. No step of Newton's is longer than `_FAR` plain ones.
_MANY, _FAR = 100, 30.0


class Stop(NamedTuple):
    """Stop once a step of reweighted least squares moves no fitted value by more than `tolerance` scales.

    `newton`: sets of `_MANY` points or more take Newton's steps, a third as many. Some sets have several
    lines at rest, close to each other: there Newton's steps may end at another one.
    """

    tolerance: float
    steps: int
    newton: bool


# For reported lines, and for bootstrap draws. A set of few points may take thousands of steps.
FINE, COARSE = Stop(1e-10, 20_000, newton=False), Stop(1e-5, 500, newton=True)


class Lines(NamedTuple):
    """Lines y = intercept + slope x, float64 [R], NaN for a set with one x; weights of the points [R, N]."""

    slope: np.ndarray
    intercept: np.ndarray
    weights: np.ndarray


def lines(x: np.ndarray, y: np.ndarray, method: str = "huber", stop: Stop = FINE) -> Lines:
    """The line through each set of points, float64 [R, N], finite; x is exact."""
    rows = max(1, _BLOCK // x.shape[1])
    blocks = [slice(at, at + rows) for at in range(0, max(len(x), 1), rows)]
    parts = [least_squares(x[block], y[block], np.ones_like(x[block])) for block in blocks]
    start = Lines(*map(np.concatenate, zip(*parts)))
    return start if method == "ols" else _robust(x, y, start, stop, rows)


def least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Lines:
    """Weighted, about the weighted means."""
    total = _sums(weights)
    centre_x, centre_y = _sums(weights * x) / total, _sums(weights * y) / total
    dx = x - centre_x[:, None]
    across = weights * dx
    together = np.where(np.ptp(y, axis=1) == 0, 0.0, np.vecdot(across, y - centre_y[:, None]))
    slope = together / np.where(np.ptp(x, axis=1) == 0, np.nan, np.vecdot(across, dx))
    return Lines(slope, centre_y - slope * centre_x, weights)


def _sums(values: np.ndarray) -> np.ndarray:
    return np.add.reduce(values, 1)  # .sum(1) takes twice as long for the few sets of the last steps


def _robust(x: np.ndarray, y: np.ndarray, found: Lines, stop: Stop, rows: int) -> Lines:
    """`found`: least squares, which the result replaces. `rows`: sets in work at a time; others wait."""
    smallest = np.maximum(_ROUNDING * np.abs(y).max(1), np.finfo(np.float64).tiny)
    left, centre = np.full(len(x), stop.steps), x.mean(1)
    ends = np.stack([x.min(1), x.max(1)]) - centre
    search = (_Newton if stop.newton and x.shape[1] >= _MANY else _Plain)(found, centre, ends)
    waiting = np.flatnonzero(np.isfinite(found.slope))
    which, across, up = waiting[:0], x[:0], y[:0]
    room = np.empty((4, min(rows, len(x)), x.shape[1]))  # of every step: new arrays would leave the cache
    while len(which) or len(waiting):
        if len(which) <= rows // 2 and len(waiting):
            which, waiting = np.split(np.concatenate([which, waiting]), [rows])
            across, up = x[which] - centre[which, None], y[which]
        line = search.lines[:, which]
        residuals, size, weights, spare = room[:, : len(which)]
        _residuals(across, up, line, residuals)
        middle = _middle(np.abs(residuals, out=size), spare)
        scale = np.maximum(middle.mean(0) / _NORMAL_MAD, smallest[which])
        limit = (K * scale)[:, None]
        np.divide(limit, np.maximum(size, limit, out=weights), out=weights)
        matrix, pull = _equations(across, residuals, weights, spare)
        plain = _solved(matrix, pull)
        moved = _longest(plain, ends[:, which]) / scale
        exact = scale <= smallest[which]  # more than half of the points are on the line
        left[which] -= 1
        done = exact | (moved <= stop.tolerance) | (left[which] == 0)
        if np.count_nonzero(done):
            those, (level, slope) = which[done], np.where(exact, line, line + plain)[:, done]
            found.slope[those], found.intercept[those] = slope, level - slope * centre[those]
            found.weights[those] = weights[done]
        search.move(which, _Step(across, residuals, size, weights, middle, scale, pull, plain, moved))
        if np.count_nonzero(done):
            which, across, up = which[~done], across[~done], up[~done]
    return found


class _Step(NamedTuple):
    """What is computed at the lines of R sets.

    Attributes:
        across, residuals, size, weights: x about the centre; y less the line; its size; [R, N].
        middle: the one or two sizes in the middle, [2, R].
        pull: weighted sums of (1, x) residual, [2, R].
        plain: how the plain step changes y at the centre, and the slope, [2, R].
        moved: how far it moves a line, in scales, [R].
    """

    across: np.ndarray
    residuals: np.ndarray
    size: np.ndarray
    weights: np.ndarray
    middle: np.ndarray
    scale: np.ndarray
    pull: np.ndarray
    plain: np.ndarray
    moved: np.ndarray


class _Plain:
    """Reweighted least squares. `lines`: y at the centre, and slope, [2, R]."""

    def __init__(self, found: Lines, centre: np.ndarray, ends: np.ndarray) -> None:
        self.lines, self._ends = np.stack([found.intercept + found.slope * centre, found.slope]), ends

    def move(self, which: np.ndarray, step: _Step) -> None:
        self.lines[:, which] += step.plain


class _Newton(_Plain):
    """Newton's steps to a line at rest, whose equations are

        sum of (1, x) w r = 0, where w r = r near the line and +-K scale far off
        scale = mean |r| in the middle / 0.6745

    They are linear in the line while the same points are near it, and the same in the middle. After a step
    that leaves the plain one about as long as before, the line goes back and takes plain steps for a while.
    """

    def __init__(self, found: Lines, centre: np.ndarray, ends: np.ndarray) -> None:
        super().__init__(found, centre, ends)
        n = len(centre)
        self._plain = self.lines.copy()  # where a plain step would have led
        self._before = np.full(n, np.inf)  # `moved` where Newton's step began
        self._pause, self._penalty = np.zeros(n, int), np.ones(n, int)  # plain steps now, and after a failure

    def move(self, which: np.ndarray, step: _Step) -> None:
        change, line = self._change(step), self.lines[:, which]
        failed = step.moved > 0.9 * self._before[which]
        short = _longest(change, self._ends[:, which]) < _FAR * step.moved * step.scale
        newton = (self._pause[which] <= 0) & short & ~failed
        self._pause[which] = np.where(failed, self._penalty[which], self._pause[which] - 1)
        self._penalty[which] *= 1 + failed
        self._before[which] = np.where(newton, step.moved, np.inf)
        new = line + np.where(newton, change, step.plain)
        self.lines[:, which] = np.where(failed, self._plain[:, which], new)
        self._plain[:, which] = line + step.plain

    def _change(self, step: _Step) -> np.ndarray:
        """Overwrites `size` and `weights`. Not finite without a solution."""
        rows = np.arange(len(step.size))
        at = np.stack([(step.size == each[:, None]).argmax(1) for each in step.middle])
        sign = np.sign(step.residuals[rows, at])
        growth = -np.stack([sign, sign * step.across[rows, at]]).mean(1) / _NORMAL_MAD  # of the scale
        inside = np.floor(step.weights, out=step.weights)  # 1 or 0
        matrix, pull = _equations(step.across, step.residuals, inside, step.size)
        beyond = (step.pull - pull) / step.scale  # sums of +-K (1, x) of points far off
        return _solved(matrix - beyond[:, None] * growth, step.pull)


def _residuals(x: np.ndarray, y: np.ndarray, line: np.ndarray, out: np.ndarray) -> None:
    np.subtract(y, np.multiply(line[1][:, None], x, out=out), out=out)
    out -= line[0][:, None]


def _longest(change: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How far lines move, at most: at one of their ends."""
    return np.abs(change[0] + change[1] * ends).max(0)


def _equations(
    x: np.ndarray, residuals: np.ndarray, weights: np.ndarray, spare: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of (1, x) (1, x), [2, 2, R], and of (1, x) r, [2, R]."""
    across = np.multiply(weights, x, out=spare)
    first, second = _sums(weights), _sums(across)
    matrix = np.stack([first, second, second, np.vecdot(across, x)]).reshape(2, 2, -1)
    return matrix, np.stack([np.vecdot(weights, residuals), np.vecdot(across, residuals)])


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Not finite without a solution."""
    (a, b), (c, d) = matrix
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([d * right[0] - b * right[1], a * right[1] - c * right[0]]) / (a * d - b * c)


def _middle(values: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """The two numbers about each row's median, equal for an odd number of them: [2, R]."""
    # np.median would select two or three numbers one after another, and look for NaN.
    middle = values.shape[1] // 2
    spare[...] = values
    spare.partition(middle, axis=1)
    upper = spare[:, middle].copy()
    return np.stack([upper if values.shape[1] % 2 else spare[:, :middle].max(1), upper])
