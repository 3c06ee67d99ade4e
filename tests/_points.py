"""Points for tests of trends: models with an x and a y, and no result rows behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from clipjax.analysis.rows.cells import Cell, Column
from clipjax.analysis.rows.points import Point


def cell(value: float, n: int | None = None, width: float | None = None, scale: str = "probit") -> Cell:
    """A cell whose interval ends `width` below and above its value; with n, a row that says so."""
    interval = None
    if width is not None:
        interval = {"lo": value - width, "hi": value + width, "level": 0.95, "method": "wilson"}
    rows: Any = () if n is None else ({"n": n},)
    return Cell(Column("c", "C", "higher", None, (), scale), float(value), interval, rows, (), [])


def points_of(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    *,
    n: int | None = None,
    widths: tuple[float | None, float | None] = (None, None),
    scale: str = "probit",
    name: str = "m",
) -> list[Point]:
    """One point a model, named `name` and its number."""
    return [
        Point(f"{name}{k:03}", {}, cell(a, n, widths[0], scale), cell(b, n, widths[1], scale))
        for k, (a, b) in enumerate(zip(x, y))
    ]


def study(
    n: int, *, slope: float = 1.0, offset: float = 0.0, noise: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies whose probits lie about a line: x and y, float64 [n] each."""
    rng = np.random.default_rng([n, seed])
    x = rng.uniform(-0.3, 1.2, n)
    return ndtr(x), ndtr(offset + slope * x + noise * rng.standard_t(4, n))
