"""The spread of accuracies by the order of options: its null by permutations, and an interval that covers."""

from __future__ import annotations

import numpy as np
import pytest

from clipjax.metrics.uncertainty.orders import spread_interval, spread_of_orders, spreads_without_effect


def test_the_null_of_a_spread_permutes_the_results_of_an_image() -> None:
    """Against permutations one by one. Images that are right in every order add no noise."""
    rng = np.random.default_rng(0)
    right = rng.random((60, 4)) < rng.random((60, 1))
    drawn = spreads_without_effect(right, 4000, np.random.default_rng(1))
    each = [spread_of_orders(rng.permuted(right, axis=1)) for _ in range(4000)]
    np.testing.assert_allclose(
        np.quantile(drawn, [0.1, 0.5, 0.95]), np.quantile(each, [0.1, 0.5, 0.95]), atol=0.02
    )
    assert drawn.mean() == pytest.approx(np.mean(each), abs=0.004)
    sure = np.concatenate([np.ones((45, 4), bool), right[:15]])
    fewer = spreads_without_effect(sure, 4000, np.random.default_rng(1))
    assert fewer.mean() == pytest.approx(drawn.mean() / 2, abs=0.015)
    everything = spreads_without_effect(np.ones((9, 5), bool), 10, rng)
    assert not everything.any()


@pytest.mark.parametrize(("n", "mean"), [(100, 0.092), (500, 0.042), (4000, 0.015)])
def test_a_spread_is_positive_without_an_effect_and_the_null_says_how_much(n: int, mean: float) -> None:
    """The spread of data without an effect lies below the null's 95 % point in 95 % of draws."""
    rng, within, spreads = np.random.default_rng(n), 0, []
    draws = 400
    for _ in range(draws):
        right = rng.random((n, 4)) < 0.7
        spreads.append(spread_of_orders(right))
        null = spreads_without_effect(right, 400, rng)
        within += spreads[-1] <= np.quantile(null, 0.95)
    assert np.mean(spreads) == pytest.approx(mean, rel=0.1)
    assert 0.93 <= within / draws <= 0.985


@pytest.mark.parametrize("effect", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("n", [100, 1000])
def test_the_interval_of_a_spread_covers(effect: float, n: int) -> None:
    """A bootstrap of the spread, centred or not, misses a spread of 0 always."""
    rng, held, draws = np.random.default_rng(7), 0, 400
    shares = np.array([0.6, 0.6, 0.6 + effect, 0.6])
    for _ in range(draws):
        hard = rng.random((n, 1)) < 0.5  # results of one image go together
        right = rng.random((n, 4)) < np.where(hard, shares - 0.2, shares + 0.2)
        interval = spread_interval(right)
        assert interval.lo <= spread_of_orders(right) <= interval.hi
        held += interval.lo <= effect <= interval.hi
    assert held / draws >= 0.94
