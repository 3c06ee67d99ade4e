"""Straight lines through many sets of points at once: least squares and Huber's M-estimator.

Huber's (1964, 1981) is reweighted least squares, as statsmodels' RLM with HuberT and seaborn's robust=True.
From least squares, repeat until no fitted value moves:

    scale = median(|residual|) / 0.6745, about 0
    weight = min(1, k scale / |residual|), k = 1.345
    line = weighted least squares

RLM's stopping rule depends on y's unit; once converged, both agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.special

Method = Literal["huber", "ols"]
METHODS: tuple[Method, ...] = get_args(Method)
K = 1.345
_NORMAL_MAD = float(scipy.special.ndtri(0.75))
_ROUNDING = 1e-13  # relative to y: residuals below are rounding errors
# Points computed at a time, to fit the CPU's cache. Sets are independent, so results do not change.
_BLOCK = 2**16


class Stop(NamedTuple):
    """Stop once no fitted value moves by more than `tolerance` residual scales."""

    tolerance: float
    steps: int


# For reported lines, and for bootstrap draws. A set of few points may take thousands of steps.
FINE, COARSE = Stop(1e-10, 20_000), Stop(1e-5, 500)


class RegressionLines(NamedTuple):
    """Lines y = intercept + slope x, float64 [R], NaN for a set with one x; weights of the points [R, N]."""

    slope: np.ndarray
    intercept: np.ndarray
    weights: np.ndarray


def lines(x: np.ndarray, y: np.ndarray, method: str = "huber", stop: Stop = FINE) -> RegressionLines:
    """The line through each set of points, float64 [R, N], finite; x is exact."""
    rows = max(1, _BLOCK // x.shape[1])
    blocks = [slice(at, at + rows) for at in range(0, max(len(x), 1), rows)]
    parts = [least_squares(x[block], y[block], np.ones_like(x[block])) for block in blocks]
    start = RegressionLines(*map(np.concatenate, zip(*parts)))
    return start if method == "ols" else _robust(x, y, start, stop, rows)


def least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> RegressionLines:
    """The line of least weighted squares in each row, fitted about the weighted means."""
    together, spread, centre_x, centre_y = _moments(x, y, weights, np.empty((2, *x.shape)))
    together = np.where(np.ptp(y, axis=1) == 0, 0.0, together)
    slope = together / np.where(np.ptp(x, axis=1) == 0, np.nan, spread)
    return RegressionLines(slope, centre_y - slope * centre_x, weights)


def _moments(x: np.ndarray, y: np.ndarray, weights: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted sums of dx dy and of dx^2 about the means, and both means, each [R]. `room`: [2, R, N]."""
    across, other = room
    total = _sums(weights)
    centre_x = _sums(np.multiply(weights, x, out=other)) / total
    centre_y = _sums(np.multiply(weights, y, out=other)) / total
    dx = np.subtract(x, centre_x[:, None], out=other)
    np.multiply(weights, dx, out=across)
    spread = _sums(np.multiply(across, dx, out=other))
    dy = np.subtract(y, centre_y[:, None], out=other)
    together = _sums(np.multiply(across, dy, out=other))
    return together, spread, centre_x, centre_y


def _sums(values: np.ndarray) -> np.ndarray:
    return np.add.reduce(values, 1)  # .sum(1) takes twice as long for the few sets of the last steps


def _robust(x: np.ndarray, y: np.ndarray, found: RegressionLines, stop: Stop, rows: int) -> RegressionLines:
    """`found`: least squares, which the result replaces. `rows`: sets in work at a time; others wait."""
    smallest, low, high = _ROUNDING * np.abs(y).max(1), x.min(1), x.max(1)
    left = np.full(len(x), stop.steps)
    waiting = np.flatnonzero(np.isfinite(found.slope))
    which, across, up = waiting[:0], x[:0], y[:0]
    room = np.empty((3, min(rows, len(x)), x.shape[1]))  # of every step: new arrays would leave the cache
    while len(which) or len(waiting):
        if len(which) <= rows // 2 and len(waiting):
            which, waiting = np.split(np.concatenate([which, waiting]), [rows])
            across, up = x[which], y[which]
        slope, intercept = found.slope[which], found.intercept[which]
        residuals = _residuals(across, up, slope, intercept, room[:2, : len(which)])
        scale = _medians(residuals, room[1, : len(which)]) / _NORMAL_MAD
        inexact = scale > smallest[which]  # else more than half of the points are on the line
        if np.count_nonzero(inexact) < len(inexact):
            those = (which, across, up, slope, intercept, residuals, scale)
            which, across, up, slope, intercept, residuals, scale = _kept(inexact, those)
        weights = np.divide(residuals, scale[:, None], out=residuals)
        np.divide(K, np.maximum(weights, K, out=weights), out=weights)
        together, spread, centre_x, centre_y = _moments(across, up, weights, room[1:, : len(which)])
        new = together / spread
        found.slope[which], found.intercept[which] = new, centre_y - new * centre_x
        found.weights[which] = weights
        # A line moves most at one of its ends.
        turned, raised = new - slope, found.intercept[which] - intercept
        moved = np.maximum(*(np.abs(raised + turned * end[which]) for end in (low, high)))
        left[which] -= 1
        going = (moved > stop.tolerance * scale) & (left[which] > 0)
        if np.count_nonzero(going) < len(going):
            which, across, up = _kept(going, (which, across, up))
    return found


def _residuals(
    x: np.ndarray, y: np.ndarray, slope: np.ndarray, intercept: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """|y - intercept - slope x|, [R, N], in the first half of `room`."""
    residuals, spare = room
    np.subtract(y, intercept[:, None], out=residuals)
    residuals -= np.multiply(slope[:, None], x, out=spare)
    return np.abs(residuals, out=residuals)


def _medians(values: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """The median of each row.

    np.median would select two or three numbers one after another, and look for NaN.
    """
    middle = values.shape[1] // 2
    spare[...] = values
    spare.partition(middle, axis=1)
    upper = spare[:, middle].copy()
    return upper if values.shape[1] % 2 else (spare[:, :middle].max(1) + upper) / 2


def _kept(those: np.ndarray, parts: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [part[those] for part in parts]
