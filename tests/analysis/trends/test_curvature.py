"""Residuals of a trend by thirds of x, and whether the models bend away from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import ndtr

from clipjax.analysis.rows.cells import Cell, Column
from clipjax.analysis.rows.points import Point
from clipjax.analysis.trends.curvature import FEWEST, curvature
from clipjax.analysis.trends.trends import fit_points

COLUMN = Column("c", "C", "higher", None, (), scale="probit")


def models(x: np.ndarray, y: np.ndarray) -> list[Point]:
    """In probits."""

    def cell(value: float) -> Cell:
        rows: Any = ({"n": None},)
        return Cell(COLUMN, float(ndtr(value)), None, rows, (), [])

    return [Point(f"m{k}", {}, cell(a), cell(b)) for k, (a, b) in enumerate(zip(x, y))]


def study(seed: int, bend: float, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.5, 1.5, n)
    return x, 0.9 * x - 0.3 + bend * x**2 + 0.05 * rng.normal(size=n)


def test_the_quadratic_term_is_that_of_statsmodels() -> None:
    x, y = study(0, 0.2)
    points = models(x, y)
    found = curvature(points, fit_points(points, resamples=0), level=0.9)
    assert found is not None
    z = (x - x.mean()) / x.std()
    wanted: Any = sm.OLS(y, np.stack([np.ones_like(z), z, z**2], axis=1)).fit()
    assert found.quadratic == pytest.approx(wanted.params[2], abs=1e-9)
    assert [found.lo, found.hi] == pytest.approx(wanted.conf_int(0.1)[2], abs=1e-9)


def test_thirds() -> None:
    """Of seven models: 3, 2 and 2, by x, in y's own units."""
    x, y = study(1, 0.3, n=7)
    points = models(x, y)
    trend = fit_points(points, resamples=0)
    found = curvature(points, trend)
    assert found is not None
    order = np.argsort(x)
    off = ndtr(y) - trend.predict(ndtr(x))
    expected = [off[order[some]].mean() for some in (slice(3), slice(3, 5), slice(5, 7))]
    assert found.thirds == pytest.approx(expected, abs=1e-12)


def test_a_bend_is_told_from_a_line() -> None:
    """At 95 %: about one in twenty intervals of straight models is without 0, of bent ones nearly all."""

    def bent(seed: int, bend: float) -> bool:
        points = models(*study(seed, bend))
        found = curvature(points, fit_points(points, resamples=0))
        assert found is not None
        return found.lo > 0 or found.hi < 0

    assert sum(bent(seed, 0.0) for seed in range(100)) <= 11
    assert sum(bent(seed, 0.2) for seed in range(20)) >= 19
    points = models(*study(3, 0.3))
    found = curvature(points, fit_points(points, resamples=0))
    assert found is not None
    assert found.thirds[0] > 0 > found.thirds[1]
    assert found.thirds[2] > 0


def test_too_few_models() -> None:
    points = models(*study(2, 0.0, n=FEWEST))
    trend = fit_points(points, resamples=0)
    assert curvature(points, trend) is not None
    assert curvature(points[1:], trend) is None
    two = models(np.repeat([0.1, 0.2], 4), np.arange(8) / 10)
    assert curvature(two, fit_points(two, resamples=0)) is None
