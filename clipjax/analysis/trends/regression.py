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
_BLOCK = 2**16


class Stop(NamedTuple):
    """Stop once no fitted value moves by more than `tolerance` residual scales."""

    tolerance: float
    steps: int


# For reported lines, and for bootstrap draws. A set of few points may take thousands of steps.
FINE, COARSE = Stop(1e-10, 20_000), Stop(1e-5, 500)


class Lines(NamedTuple):
    """Lines y = intercept + slope x, float64 [R], NaN for a set with one x; weights of the points [R, N]."""

    slope: np.ndarray
    intercept: np.ndarray
    weights: np.ndarray


def lines(x: np.ndarray, y: np.ndarray, method: str = "huber", stop: Stop = FINE) -> Lines:
    """The line through each set of points, float64 [R, N], finite; x is exact."""
    rows = max(1, _BLOCK // x.shape[1])
    parts = [
        _lines(x[at : at + rows], y[at : at + rows], method, stop) for at in range(0, max(len(x), 1), rows)
    ]
    return Lines(*map(np.concatenate, zip(*parts)))


def _lines(x: np.ndarray, y: np.ndarray, method: str, stop: Stop) -> Lines:
    start = least_squares(x, y, np.ones_like(x))
    return start if method == "ols" else _robust(x, y, start, stop)


def least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Lines:
    """Weighted, about the weighted means."""
    total = weights.sum(1)
    centre_x, centre_y = (weights * x).sum(1) / total, (weights * y).sum(1) / total
    dx = x - centre_x[:, None]
    across = weights * dx
    spread = (across * dx).sum(1)
    constant = np.ptp(x, axis=1) == 0
    together = (across * (y - centre_y[:, None])).sum(1)
    slope = np.where(np.ptp(y, axis=1) == 0, 0.0, together) / np.where(constant, np.nan, spread)
    return Lines(slope, centre_y - slope * centre_x, weights)


def _robust(x: np.ndarray, y: np.ndarray, start: Lines, stop: Stop) -> Lines:
    slope, intercept, weights = start.slope.copy(), start.intercept.copy(), start.weights.copy()
    going = np.flatnonzero(np.isfinite(slope))
    smallest = _ROUNDING * np.abs(y).max(1)
    for _ in range(stop.steps):
        across, up = x[going], y[going]
        residuals = np.abs(up - intercept[going, None] - slope[going, None] * across)
        scale = np.median(residuals, axis=1) / _NORMAL_MAD
        inexact = scale > smallest[going]  # else more than half of the points are on the line
        going, across, up, residuals, scale = _kept(inexact, going, across, up, residuals, scale)
        if not len(going):
            break
        new = least_squares(across, up, K / np.maximum(residuals / scale[:, None], K))
        turned, raised = new.slope - slope[going], new.intercept - intercept[going]
        # A line moves most at one of its ends.
        moved = np.maximum(*(np.abs(raised + turned * end) for end in (across.min(1), across.max(1))))
        slope[going], intercept[going], weights[going] = new
        going = going[moved > stop.tolerance * scale]
    return Lines(slope, intercept, weights)


def _kept(those: np.ndarray, *parts: np.ndarray) -> list[np.ndarray]:
    return [part[those] for part in parts]
