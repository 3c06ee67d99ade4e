"""A trend over a noisy x is too flat: it is refused where that matters, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from clipjax.analysis.rows.cells import Cell, Column
from clipjax.analysis.rows.points import Point
from clipjax.analysis.trends.group_differences import compare_groups
from clipjax.analysis.trends.noise import NOISIEST, noise_of_x, too_noisy
from clipjax.analysis.trends.trends import fit_points, too_little
from clipjax.errors import DataError
from clipjax.metrics.uncertainty.intervals import wilson

SLOPE, SPREAD, CENTRE = 0.9, 0.1, 0.5  # in probits
COLUMN = Column("c", "C", "higher", None, (), scale="probit")


def cell(value: float, n: int | None, interval: bool = True) -> Cell:
    limits = wilson(round(value * n), n)._asdict() if n and interval else None
    rows: Any = ({"n": n},)
    return Cell(COLUMN, value, limits, rows, (), [])


def study(rng: np.random.Generator, images: int, models: int = 60, known: str = "interval") -> list[Point]:
    """Models whose x is measured on so many images, on a line over the true x."""
    x = CENTRE + SPREAD * rng.normal(size=models)
    measured = rng.binomial(images, ndtr(x)) / images
    y = ndtr(SLOPE * x + 0.02 * rng.normal(size=models))
    n = images if known != "nothing" else None
    return [
        Point(f"m{k}", {}, cell(float(a), n, known == "interval"), cell(float(b), None))
        for k, (a, b) in enumerate(zip(measured, y))
    ]


@pytest.mark.parametrize("known", ["interval", "n"])
@pytest.mark.parametrize(("images", "refused"), [(500, True), (1000, True), (5000, False), (50_000, False)])
def test_slopes_that_are_too_flat_are_refused(images: int, refused: bool, known: str) -> None:
    """Where it is allowed the slope is right within 5 %; where it is refused it is at least 10 % too flat."""
    rng = np.random.default_rng(images)
    shares, slopes = [], []
    for _ in range(30):
        points = study(rng, images, known=known)
        shares.append(noise_of_x(points))
        # The line itself, of points whose n and intervals are not known.
        plain = [Point(p.model, {}, cell(p.x.value or 0, None), p.y) for p in points]
        slopes.append(fit_points(plain, method="ols", resamples=0).slope)
    share, slope = float(np.mean(shares)), float(np.mean(slopes))
    assert (share > NOISIEST) == refused
    assert slope == pytest.approx(SLOPE * (1 - share), rel=0.06)
    assert (slope < 0.9 * SLOPE) == refused
    assert slope > 0.95 * SLOPE or refused


def test_the_words() -> None:
    noisy = study(np.random.default_rng(0), 300)
    words = too_noisy(noisy)
    assert words is not None
    assert words.startswith("x is too noisy: errors of its numbers make up ")
    assert too_little(noisy) == words
    with pytest.raises(DataError, match="x is too noisy: errors of its numbers make up"):
        fit_points(noisy)
    exact = study(np.random.default_rng(0), 50_000)
    found = compare_groups(noisy, exact, resamples=0)
    assert (found.a, found.slope) == (None, None)
    assert found.reasons == (f"group a: {words}",)


def test_what_is_not_known_is_not_refused() -> None:
    """Published numbers without n or interval."""
    points = study(np.random.default_rng(1), 300, known="nothing")
    assert (noise_of_x(points), too_noisy(points)) == (None, None)
    assert fit_points(points, resamples=0).n == 60


def test_the_error_of_one_number() -> None:
    """Of a fraction on a probit scale: by the normal density."""
    n, p = 2000, 0.7
    x = [cell(value, n, interval=False) for value in (p, p - 0.01)]
    points = [Point(str(k), {}, each, each) for k, each in enumerate(x)]
    spread = np.var([ndtri(p), ndtri(p - 0.01)], ddof=1)
    errors = [v * (1 - v) / n * (np.sqrt(2 * np.pi) * np.exp(ndtri(v) ** 2 / 2)) ** 2 for v in (p, p - 0.01)]
    assert noise_of_x(points) == pytest.approx(np.mean(errors) / spread, rel=1e-4)
    # An interval of another level says the same.
    wide = [Point(q.model, {}, cell(q.x.value or 0, n), q.y) for q in points]
    assert noise_of_x(wide) == pytest.approx(np.mean(errors) / spread, rel=0.02)
    assert noise_of_x(points, "linear") is None


def logarithmic(values: list[float], lo: float, hi: float) -> list[Point]:
    """Positive numbers with intervals from `lo` to `hi` times their value."""
    column, rows = Column("c", "C", "lower", None, (), scale="log"), ({"n": None},)
    cells: list[Any] = [
        Cell(column, v, {"lo": lo * v, "hi": hi * v, "level": 0.95}, rows, (), [])  # type: ignore[arg-type]
        for v in values
    ]
    return [Point(str(k), {}, each, each) for k, each in enumerate(cells)]


def test_an_interval_that_begins_at_0_counts_by_its_other_side() -> None:
    """On a log axis 0 is infinitely far."""
    values = [0.01, 0.02, 0.04, 0.08]
    cut, whole = logarithmic(values, 0.0, 1.25), logarithmic(values, 1 / 1.25, 1.25)
    assert noise_of_x(cut) == pytest.approx(noise_of_x(whole), rel=1e-12)
    assert too_noisy(cut) is None
    words = too_noisy(logarithmic(values, 0.0, 50.0))
    assert words is not None
    assert "make up more than all of its variance over the models, at most 10% may be" in words


def test_numbers_at_the_ends_of_a_scale() -> None:
    points = [Point(str(k), {}, cell(k / 4, 400), cell(0.5, None)) for k in range(5)]
    assert 0 < (noise_of_x(points) or 0) < NOISIEST
