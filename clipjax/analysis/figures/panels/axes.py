"""Axes on a probit, logit, log or linear scale, with readable ticks.

Coordinates are transformed before drawing, so that a fit is a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from clipjax.analysis.rows.scales import inverse, transform

MARGIN = 0.08
FEWEST, NARROWEST = 4, 0.14  # fewest ticks; least distance, as a share of the axis
# Coarse to fine: the first set with enough ticks between the ends is used.
_TAILS = [0.0001, 0.001, 0.01]
_SETS = [
    [*_TAILS, 0.1, 0.5, 0.9, *(1 - t for t in reversed(_TAILS))],
    [*_TAILS, 0.05, *(k / 10 for k in range(1, 10)), 0.95, *(1 - t for t in reversed(_TAILS))],
    [k / 20 for k in range(1, 20)] + [0.98, 0.99],
    [k / 50 for k in range(1, 50)] + [0.99],
    [k / 100 for k in range(1, 100)],
    [k / 200 for k in range(1, 200)],
]


def ticks(low: float, high: float, scale: str) -> list[float]:
    """Ticks in the metric's own units."""
    if scale == "linear":
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [t for t in (round(float(t), 12) for t in values) if low <= t <= high]
    inside: list[float] = []
    for numbers in _decades(low, high) if scale == "log" else _SETS:
        inside = [t for t in numbers if low <= t <= high]
        if len(inside) >= FEWEST:
            break
    coordinates = _at(inside, scale)
    gap = NARROWEST * float(np.subtract(*_at([high, low], scale)))
    kept: list[int] = []
    for k, at in enumerate(coordinates):
        if not kept or at - coordinates[kept[-1]] >= gap:
            kept.append(k)
    return [inside[k] for k in kept]


def _decades(low: float, high: float) -> list[list[float]]:
    """Ticks of a log axis, coarse to fine: powers of ten, then 1, 2, 5, then more of each decade."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = ([1], [1, 3], [1, 2, 5], range(1, 10), [k / 10 for k in range(10, 100)])
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
