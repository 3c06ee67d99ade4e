"""Intervals over units of alike models: whole units are drawn, and errors are those of units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from clipjax.analysis.trends.correlation import correlation
from clipjax.analysis.trends.estimates import EVERYTHING, mean_difference, mean_of, shift_of
from clipjax.analysis.trends.group_differences import compare_fits
from clipjax.analysis.trends.resampling import METHOD, METHOD_OF_UNITS, draw, draw_units, numbered
from clipjax.analysis.trends.trends import fit

UNITS = ["a", "b", "a", "c", "c", "c", "d", "e", "f"]


def test_units_are_drawn_whole() -> None:
    units = np.array([0, 1, 0, 2, 2, 2, 3])
    drawn = draw(4, 50, 3, 1)
    expected = [sorted(np.concatenate([np.flatnonzero(units == k) for k in one])) for one in drawn]
    found: dict[int, list[int]] = {}
    for which, models in draw_units(units, 50, 3, 1):
        found |= {int(k): sorted(each) for k, each in zip(which, models)}
    assert [found[k] for k in range(50)] == expected


def test_models_that_are_units_of_their_own_are_drawn_as_before() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    alone = [str(k) for k in range(9)]
    assert numbered(alone) is None
    for made in (
        lambda **more: fit(x, y, scale="linear", resamples=50, **more).draws,
        lambda **more: correlation(x, y, resamples=50, **more).draws,
    ):
        np.testing.assert_array_equal(made(), made(units=alone))


def test_each_draw_is_the_line_of_its_models() -> None:
    x, y = np.sort(np.random.default_rng(1).normal(size=(2, 9)))
    found = fit(x, y, scale="linear", method="ols", resamples=40, units=UNITS)
    units = numbered(UNITS)
    assert units is not None
    for which, models in draw_units(units, 40, 0):
        slopes = [np.polyfit(x[some], y[some], 1)[0] for some in models]
        np.testing.assert_allclose(found.draws[which, 0], slopes, atol=1e-10)
    assert (found.n, found.units) == (9, 6)
    interval = found.slope_interval
    assert interval is not None
    assert interval["method"] == METHOD_OF_UNITS == found.convention["interval"]


def test_the_order_of_the_models_is_no_matter() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 9))
    mixed = np.random.default_rng(3).permutation(9)
    one = fit(x, y, scale="linear", resamples=60, units=UNITS)
    other = fit(x[mixed], y[mixed], scale="linear", resamples=60, units=[UNITS[k] for k in mixed])
    np.testing.assert_array_equal(one.draws, other.draws)


def test_too_few_units_have_no_interval() -> None:
    """Of four units, however many models."""
    x, y = np.random.default_rng(4).normal(size=(2, 12))
    four, six = [f"{k % 4}" for k in range(12)], [f"{k % 6}" for k in range(12)]
    few, enough = (fit(x, y, scale="linear", resamples=60, units=units) for units in (four, six))
    assert (few.slope_interval, enough.slope_interval is None) == (None, False)
    difference = compare_fits(few, enough)
    assert difference.slope is not None
    assert difference.slope.interval is None
    assert correlation(x, y, units=six).interval is None
    assert correlation(x, y, units=[f"{k % 8}" for k in range(12)]).interval is not None


# -------------------------------------------------------------------------------- errors of means


def _errors(values: np.ndarray, design: np.ndarray, units: np.ndarray) -> Any:
    """statsmodels' for clusters."""
    model: Any = sm.OLS(values, design)
    return model.fit(cov_type="cluster", cov_kwds={"groups": units, "df_correction": False})


def test_the_error_of_a_mean_is_that_of_clusters() -> None:
    values, units = np.random.default_rng(5).normal(size=9), np.array([0, 1, 0, 2, 2, 2, 3, 4, 5])
    found = mean_of(values, units)
    # With a constant alone its factor is G / (G - 1).
    error = _errors(values, np.ones((9, 1)), units).bse[0]
    lo, hi = found.at(0.95)
    assert found.value == pytest.approx(values.mean())
    assert (hi - lo) / 2 == pytest.approx(error * 2.5705818356363, rel=1e-9)  # t of 5 degrees of freedom
    assert found.method == "paired_t_of_units"
    np.testing.assert_allclose(mean_of(values, np.arange(9)).at(0.9), mean_of(values).at(0.9), rtol=1e-12)


def test_means_of_one_unit_have_no_interval() -> None:
    values = np.arange(4.0)
    assert mean_of(values, np.zeros(4, int)).at(0.95) == EVERYTHING
    assert mean_difference(values, values, np.zeros(4, int), None).at(0.95) == EVERYTHING
    alone = mean_difference(values, values + 1, np.arange(4), np.arange(4))
    np.testing.assert_allclose(alone.at(0.95), mean_difference(values, values + 1).at(0.95), rtol=1e-12)


def test_ranks_of_units() -> None:
    """The shift and its interval are those of the units' means."""
    values, units = np.random.default_rng(6).normal(1, 1, 16), np.repeat(np.arange(8), 2)
    found = shift_of(values, units)
    assert found.value == shift_of(values.reshape(8, 2).mean(1)).value != shift_of(values).value
    assert found.at(0.95) == shift_of(values.reshape(8, 2).mean(1)).at(0.95)
    assert shift_of(values[:8], units[:8]).at(0.95) == EVERYTHING  # four units


def test_a_shift_is_within_its_interval() -> None:
    """One run of 30 pairs that gain, beside seven that lose: the median of all pairs is that run's."""
    values, units = np.append(np.full(30, 0.5), -np.arange(1.0, 8)), np.append(np.zeros(30, int), range(1, 8))
    found = shift_of(values, units)
    lo, hi = found.at(0.95)
    assert lo <= found.value <= hi < shift_of(values).value == 0.5


def test_coverage_where_models_of_a_unit_are_alike() -> None:
    """Twelve runs of four epochs each, which differ by a tenth of what runs differ by."""
    rng, units = np.random.default_rng(7), np.repeat(np.arange(12), 4)
    hits = np.zeros(2)
    for study in range(150):
        x = np.repeat(rng.uniform(-1, 1, 12), 4)
        off = np.repeat(rng.normal(size=12), 4) + 0.1 * rng.normal(size=48)
        names = [str(k) for k in units]
        lines = [
            fit(x, x + off, scale="linear", method="ols", resamples=200, seed=study, units=of)
            for of in (names, None)
        ]
        hits += [
            lo <= 1 <= hi for lo, hi in (np.quantile(each.draws[:, 0], [0.025, 0.975]) for each in lines)
        ]
    by_units, by_models = hits / 150
    assert by_units >= 0.86  # twelve of anything: percentiles are a little narrow
    assert by_models <= 0.75


def test_methods() -> None:
    x, y = np.random.default_rng(8).normal(size=(2, 9))
    found = correlation(x, y, units=[f"{k % 8}" for k in range(9)])
    assert found.interval is not None
    assert (found.n, found.interval["method"]) == (8, METHOD_OF_UNITS)
    assert correlation(x, y).method == METHOD
