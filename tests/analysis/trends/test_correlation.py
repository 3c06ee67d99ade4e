"""Correlations of models: scipy's, also in each draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats

from clipjax.analysis.trends.correlation import FEWEST, KINDS, correlation
from clipjax.analysis.trends.resampling import METHOD, draw
from clipjax.errors import ClipjaxError, DataError, UsageError

stats: Any = typed_stats  # its stubs do not know all that it has
REFERENCE = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}


def models(n: int, *, ties: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n, seed])
    x = rng.normal(size=n)
    y = 0.7 * x + rng.normal(size=n)
    return (np.round(x), np.round(y)) if ties else (x, y)


def theirs(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """NaN where one side is one number, as scipy has it with a warning."""
    return math.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else float(REFERENCE[kind](x, y).statistic)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [2, 3, 7, 40, 255])
def test_it_is_scipys(n: int, ties: bool, kind: str) -> None:
    for seed in range(4):
        x, y = models(n, ties=ties, seed=seed)
        found = correlation(x, y, kind, resamples=0)
        np.testing.assert_allclose(found.value, theirs(x, y, kind), rtol=0, atol=1e-12)
        assert (found.n, found.interval) == (n, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ties", [False, True])
def test_so_is_each_draw(ties: bool, kind: str) -> None:
    x, y = models(9, ties=ties)
    found = correlation(x, y, kind, resamples=200, seed=5)
    order = np.lexsort((y, x))
    drawn = order[draw(9, 200, 5)]
    expected = np.array([theirs(x[some], y[some], kind) for some in drawn])
    np.testing.assert_allclose(found.draws, expected[np.isfinite(expected)], atol=1e-12)
    assert found.undefined == np.isnan(expected).sum()
    lo, hi = map(pytest.approx, np.quantile(found.draws, [0.025, 0.975]))
    assert found.interval == {"lo": lo, "hi": hi, "level": 0.95, "method": METHOD}


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_is_scipys_bootstrap(kind: str) -> None:
    """With draws of their own: equal but for the chance of either."""
    x, y = models(40)
    wanted = stats.bootstrap(
        (x, y),
        lambda a, b: REFERENCE[kind](a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = correlation(x, y, kind, resamples=10_000).interval
    assert found is not None
    width = wanted.high - wanted.low
    np.testing.assert_allclose([found["lo"], found["hi"]], [wanted.low, wanted.high], atol=0.06 * width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_models_is_no_matter(kind: str) -> None:
    x, y = models(30, ties=True)
    mixed = np.random.default_rng(1).permutation(30)
    one, other = correlation(x, y, kind), correlation(x[mixed], y[mixed], kind)
    assert one.value == other.value
    np.testing.assert_array_equal(one.draws, other.draws)
    assert not np.array_equal(one.draws, correlation(x, y, kind, seed=1).draws)


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_order(kind: str) -> None:
    """All draws agree, so that resampling does not tell how sure it is."""
    x = np.linspace(0.1, 0.9, 12)
    for sign in (1, -1):
        found = correlation(x, sign * x, kind)
        assert found.value == pytest.approx(sign)
        assert found.interval is None


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_models_have_no_interval(kind: str) -> None:
    assert correlation(*models(FEWEST - 1), kind).interval is None
    assert correlation(*models(FEWEST), kind).interval is not None


def test_the_fewest_models_seldom_show_a_correlation_that_is_not_there() -> None:
    """At 95 % Spearman's interval leaves 0 out in about 5 of 100 studies; of five models in about 14."""
    rng = np.random.default_rng(3)
    limits = [correlation(*rng.normal(size=(2, FEWEST)), resamples=300, seed=k).interval for k in range(400)]
    wrong = sum(each is not None and not each["lo"] <= 0 <= each["hi"] for each in limits)
    assert wrong / len(limits) < 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_for_all_models_has_none(kind: str) -> None:
    found = correlation(np.full(8, 0.3), np.linspace(0, 1, 8), kind)
    assert math.isnan(found.value)
    assert found.interval is None
    assert len(found.draws) == 0


@pytest.mark.parametrize(
    ("x", "y", "settings", "error", "says"),
    [
        ([0.5], [0.5], {}, DataError, "2 models or more, here is 1 model"),
        ([0.5, 0.6], [0.5], {}, DataError, r"shape \(2,\) and y \(1,\)"),
        ([0.5, math.nan], [0.5, 0.6], {}, DataError, "nan is not a value"),
        (
            [0.5, 0.6],
            [0.5, 0.6],
            {"kind": "spearmann"},
            UsageError,
            "unknown correlation 'spearmann'.*spearman",
        ),
        ([0.5, 0.6], [0.5, 0.6], {"level": 0.0}, UsageError, "level of intervals is 0"),
    ],
)
def test_refused(x: Any, y: Any, settings: dict[str, Any], error: type[ClipjaxError], says: str) -> None:
    with pytest.raises(error, match=says):
        correlation(x, y, **settings)
