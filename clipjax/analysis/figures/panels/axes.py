"""Axes on a probit, logit, log or linear scale, with readable ticks.

Coordinates are transformed before drawing, so that a fit is a straight line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from clipjax.analysis.rows.scales import inverse, transform

MARGIN = 0.08
FEWEST, MOST = 5, 7  # ticks of an axis
GAPS = (
    0.127,
    0.1,
)  # least distance of two ticks, as a share of the axis: the second if the first leaves too few
STEPS = (1, 2, 5, 2.5, 4, 3, 6, 8, 1.5)  # of even ticks, plain ones first; with any power of ten
# Coarse to fine: the first set with enough ticks between the ends is used.
_TAILS = [0.0001, 0.001, 0.01]
_ENDS = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
_SETS = [
    [*_TAILS, 0.1, 0.5, 0.9, *(1 - t for t in reversed(_TAILS))],
    [*_TAILS, 0.1, 0.3, 0.5, 0.7, 0.9, *(1 - t for t in reversed(_TAILS))],
    [*_TAILS, 0.05, *(k / 10 for k in range(1, 10)), 0.95, *(1 - t for t in reversed(_TAILS))],
    [k / 20 for k in range(1, 20)] + [0.98, 0.99],
    [*_ENDS, *(k / 10 for k in range(3, 8)), *(1 - t for t in reversed(_ENDS))],
]


def ticks(low: float, high: float, scale: str) -> list[float]:
    """Ticks in the metric's own units, five to seven where so many have room."""
    if scale == "linear":
        return next(_even(low, high))
    sets = [*(_decades(low, high) if scale == "log" else _SETS), *_even(low, high)]
    best: list[float] = []
    for gap, numbers in itertools.product(GAPS, sets):
        apart = _apart([t for t in numbers if low <= t <= high], gap * _length(low, high, scale), scale)
        if len(apart) >= FEWEST:
            return apart
        best = max(best, apart, key=len)
    return best


def _length(low: float, high: float, scale: str) -> float:
    return float(np.ptp(_at([low, high], scale)))


def _apart(values: Sequence[float], gap: float, scale: str) -> list[float]:
    """The values without those that are too near to the one before."""
    kept: list[tuple[float, float]] = []
    for value, at in zip(values, _at(values, scale)):
        if not kept or at - kept[-1][1] >= gap:
            kept.append((value, at))
    return [value for value, _ in kept]


def _even(low: float, high: float) -> Iterator[list[float]]:
    """Ticks at equal distances, as many as an axis has, that of the plainest step first."""
    unit = 10.0 ** math.floor(math.log10((high - low) / (MOST + 1)))
    for step in (10.0**power * unit * plain for plain in STEPS for power in (1, 0)):
        multiples = range(math.floor(low / step), math.ceil(high / step) + 1)
        found = [float(f"{k * step:.12g}") for k in multiples]
        inside = [value for value in found if low <= value <= high]
        if FEWEST <= len(inside) <= MOST:
            yield inside


def _decades(low: float, high: float) -> list[list[float]]:
    """Ticks of a log axis, coarse to fine: powers of ten, then more of each decade."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], range(1, 10))
    return [[float(f"{step}e{power}") for power in powers for step in some] for some in steps]


def ends(coordinates: np.ndarray) -> tuple[float, float]:
    """The ends of an axis with a margin, in transformed coordinates."""
    low, high = float(coordinates.min()), float(coordinates.max())
    room = MARGIN * (high - low) or 0.05
    return low - room, high + room


def set_axis(area: Axes, which: str, numbers: tuple[float, float], scale: str, unit: str) -> None:
    """Set ticks and (transformed) limits of axis "x" or "y"."""
    low, high = (float(end) for end in inverse(np.array(numbers), scale))
    values = ticks(low, high, scale)
    labels = [f"{100 * t:.6g}" if unit else f"{t:.6g}" for t in values]
    axis = area.xaxis if which == "x" else area.yaxis
    axis.set_ticks(list(_at(values, scale)), labels)
    (area.set_xlim if which == "x" else area.set_ylim)(*numbers)


def _at(values: Sequence[float], scale: str) -> np.ndarray:
    return np.asarray(transform(np.asarray(values, float), scale))
