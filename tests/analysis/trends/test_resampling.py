"""Draws of models, and the intervals that they make."""

from __future__ import annotations

import numpy as np
import pytest

from clipjax.analysis.trends.resampling import (
    FEWEST,
    METHOD,
    Estimate,
    check_settings,
    draw,
    estimate,
    multiplicities,
)
from clipjax.errors import UsageError


def test_draws_are_models_with_replacement() -> None:
    drawn = draw(6, 5000, seed=0)
    assert drawn.shape == (5000, 6)
    counts = np.bincount(drawn.ravel())
    np.testing.assert_allclose(counts, 5000, rtol=0.05)
    assert len(counts) == 6
    np.testing.assert_array_equal(drawn, draw(6, 5000, seed=0))
    assert not np.array_equal(drawn, draw(6, 5000, seed=1))
    assert not np.array_equal(drawn, draw(6, 5000, seed=0, stream=1))
    assert draw(6, 0, seed=0).shape == (0, 6)


def test_more_draws_begin_with_the_same() -> None:
    np.testing.assert_array_equal(draw(6, 9, seed=0), draw(6, 99, seed=0)[:9])


def test_multiplicities_count_the_draws() -> None:
    drawn, times = draw(7, 40, 3, 1), multiplicities(7, 40, 3, 1)
    np.testing.assert_array_equal(times, [np.bincount(each, minlength=7) for each in drawn])
    assert multiplicities(7, 0, 0).shape == (0, 7)


def test_an_interval_is_the_central_part_of_the_draws() -> None:
    draws = np.random.default_rng(0).normal(size=999)
    found = estimate(0.1, 20, draws, 0.9)
    lo, hi = map(pytest.approx, np.quantile(draws, [0.05, 0.95]))
    assert found.interval == {"lo": lo, "hi": hi, "level": 0.9, "method": METHOD}
    wide = found.at(0.99)
    assert wide is not None
    np.testing.assert_allclose(wide, np.quantile(draws, [0.005, 0.995]))


def test_draws_without_a_value_are_counted_and_left_out() -> None:
    draws = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    found = estimate(2.0, 9, draws)
    np.testing.assert_array_equal(found.draws, [1, 3, 2])
    assert found.undefined == 2
    assert found.interval is not None


@pytest.mark.parametrize(
    "found",
    [
        Estimate(0.0, FEWEST - 1, np.arange(100.0)),
        Estimate(0.0, 20, np.empty(0)),
        Estimate(0.0, 20, np.arange(40.0), undefined=40),
        Estimate(0.5, 20, np.full(100, 0.5)),
        Estimate(0.5, 20, 0.5 + 1e-15 * np.arange(100)),
    ],
    ids=["few models", "no draws", "defined in half", "all agree", "all agree but for rounding"],
)
def test_where_there_is_no_interval(found: Estimate) -> None:
    assert found.interval is None
    assert found.at(0.5) is None


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_levels_that_are_none(level: float) -> None:
    with pytest.raises(UsageError, match="must be between 0 and 1"):
        check_settings(level, 10)


def test_resamples_that_are_none() -> None:
    check_settings(0.95, 0)
    with pytest.raises(UsageError, match="-5 resamples"):
        check_settings(0.95, -5)
