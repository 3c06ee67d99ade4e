"""Numbers with intervals at any level, against tables and statsmodels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats
import statsmodels.stats.proportion as typed_proportion

from clipjax.analysis.trends.estimates import (
    EVERYTHING,
    EXACT,
    BoundedNumber,
    bootstrapped,
    difference_of,
    mean_difference,
    mean_of,
    shift_of,
)
from clipjax.analysis.trends.resampling import estimate

stats: Any = typed_stats  # the stubs do not know all that there is
proportion: Any = typed_proportion
LEVELS = (0.8, 0.95, 0.99)


def wilson(hits: int, n: int) -> BoundedNumber:
    return BoundedNumber(
        hits / n, lambda level: proportion.proportion_confint(hits, n, 1 - level, method="wilson"), "wilson"
    )


@pytest.mark.parametrize("level", LEVELS)
def test_a_difference_is_newcombes_where_both_are_wilsons(level: float) -> None:
    """MOVER of two Wilson intervals is Newcombe's hybrid score interval (1998, method 10)."""
    found = difference_of(wilson(48, 80), wilson(56, 70))
    expected = proportion.confint_proportions_2indep(56, 70, 48, 80, method="newcomb", alpha=1 - level)
    assert found.at(level) == pytest.approx(expected, abs=1e-12)
    assert found.value == pytest.approx(0.2)


def test_newcombes_own_example() -> None:
    assert difference_of(wilson(48, 80), wilson(56, 70)).at(0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("n", "critical"), [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (15, 25), (20, 52)])
def test_limits_of_a_shift_are_at_the_tables_critical_values(n: int, critical: int) -> None:
    """T of printed tables, two-sided 5 %: so many means lie beyond each limit."""
    differences = np.random.default_rng(n).normal(size=n)
    means = np.sort([(a + b) / 2 for k, a in enumerate(differences) for b in differences[k:]])
    assert shift_of(differences).at(0.95) == (means[critical], means[-critical - 1])


def test_a_shift_of_many_pairs_goes_by_the_normal_approximation() -> None:
    """From 101 pairs on; at 100, where both can be had, it moves the limits by no more than a step or two."""
    differences = np.random.default_rng(0).normal(0.2, 1, EXACT + 1)
    exact, approximate = shift_of(differences[:-1]), shift_of(differences)
    assert (exact.method, approximate.method) == ("wilcoxon_exact", "wilcoxon_normal")
    for limit in approximate.at(0.95):
        p = stats.wilcoxon(differences - limit, mode="approx", correction=False).pvalue
        assert p == pytest.approx(0.05, abs=0.001)
    for limit in exact.at(0.95):
        assert stats.wilcoxon(differences[:-1] - limit, mode="approx").pvalue == pytest.approx(
            0.05, abs=0.002
        )


@pytest.mark.parametrize("level", LEVELS)
def test_means(level: float) -> None:
    one, two = np.random.default_rng(1).normal(size=9), np.random.default_rng(2).normal(1, 3, size=30)
    welch = stats.ttest_ind(two, one, equal_var=False).confidence_interval(level)
    assert mean_difference(one, two).at(level) == pytest.approx(tuple(welch), abs=1e-12)
    student = stats.ttest_1samp(one, 0).confidence_interval(level)
    assert mean_of(one).at(level) == pytest.approx(tuple(student), abs=1e-12)


def test_values_without_any_spread() -> None:
    """Nothing varies: the mean is all that there is, with no width and no warning."""
    same = np.full(4, 0.25)
    assert mean_difference(same, same + 0.5).at(0.95) == pytest.approx((0.5, 0.5))
    assert mean_of(same).at(0.95) == pytest.approx((0.25, 0.25))
    assert shift_of(np.full(8, 0.25)).at(0.95) == (0.25, 0.25)


def test_a_bootstrap_tells_no_more_than_its_draws() -> None:
    draws = np.random.default_rng(0).normal(size=1000)
    found = bootstrapped(estimate(0.0, 20, draws))
    assert found.at(0.95) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert math.isfinite(found.at(0.997)[0])
    assert found.at(0.999) == EVERYTHING
    assert bootstrapped(estimate(0.0, 4, draws)).at(0.95) == EVERYTHING
    assert difference_of(found, bootstrapped(estimate(0.0, 4, draws))).at(0.95) == EVERYTHING
