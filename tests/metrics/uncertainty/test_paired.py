"""McNemar's tests and Holm's correction against scipy, and the definition by closed testing."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from scipy.stats import binom, chisquare

from clipjax.metrics.uncertainty import paired


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 2), (2, 5), (10, 10), (150, 86)])
def test_exact_is_twice_the_binomial_tail(gained, lost):
    got = paired.mcnemar_exact(gained, lost)
    tail = binom.cdf(min(gained, lost), gained + lost, 0.5)
    assert got.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert (got.statistic, got.method) == (min(gained, lost), "mcnemar_exact")


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 2), (2, 5), (150, 86)])
def test_continuity_is_scipys_chi_squared_of_counts_half_an_image_closer(gained, lost):
    got = paired.mcnemar_continuity(gained, lost)
    expected = chisquare([max(gained, lost) - 0.5, min(gained, lost) + 0.5])
    assert (got.statistic, got.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)
    assert got.method == "mcnemar_continuity"


def test_no_difference_seen():
    for test in (paired.mcnemar_exact, paired.mcnemar_continuity):
        assert test(0, 0).p_value == 1
        assert test(7, 7).p_value == pytest.approx(1)
    assert paired.mcnemar_continuity(7, 7).statistic == 0
    assert paired.mcnemar_continuity(1, 0).p_value == 1


def test_variants_are_told_apart_and_neither_is_uncorrected():
    exact, corrected = paired.mcnemar_exact(12, 4), paired.mcnemar_continuity(12, 4)
    assert exact.p_value == pytest.approx(0.0768, abs=1e-4)
    assert corrected.p_value == pytest.approx(0.0801, abs=1e-4)
    assert corrected.statistic == 49 / 16 != 64 / 16


def test_discordant_counts_against_a_loop():
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.6, rng.random(400) < 0.7
    expected = (
        sum(b and not a for a, b in zip(first, second)),
        sum(a and not b for a, b in zip(first, second)),
    )
    assert paired.count_discordant(first, second) == expected
    assert paired.count_discordant(second, first) == expected[::-1]
    mask = rng.random(400) < 0.5
    ours = paired.count_discordant(first, second, weights=mask)
    assert ours == paired.count_discordant(first[mask], second[mask])
    rest = paired.count_discordant(first, second, weights=~mask)
    assert (ours[0] + rest[0], ours[1] + rest[1]) == expected
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(first, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert paired.count_discordant(sharded, second) == expected


def closed_testing(p):
    """The largest Bonferroni p-value of all sets of hypotheses that hold the one in question."""
    m = len(p)
    sets = [c for size in range(1, m + 1) for c in itertools.combinations(range(m), size)]
    return [max(min(1.0, len(c) * min(p[j] for j in c)) for c in sets if i in c) for i in range(m)]


def test_holm_is_closed_testing_with_bonferroni():
    rng = np.random.default_rng(1)
    for m in (1, 2, 5, 8):
        p = rng.random(m) ** 3
        np.testing.assert_allclose(paired.holm(p), closed_testing(p), rtol=1e-12)
    tied = [0.01, 0.04, 0.01, 1.0, 0.0]
    np.testing.assert_allclose(paired.holm(tied), closed_testing(tied), rtol=1e-12)


def test_holm_by_hand():
    np.testing.assert_allclose(paired.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert paired.holm([]).tolist() == []


def test_refusals():
    with pytest.raises(ValueError, match="row 1: its p-value is not a number between 0 and 1"):
        paired.holm([0.5, np.nan])
    with pytest.raises(ValueError, match="gained is -1"):
        paired.mcnemar_exact(-1, 2)
    with pytest.raises(ValueError, match="the runs have 1 and 2 images"):
        paired.count_discordant(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="first is int64"):
        paired.count_discordant(np.array([1]), np.array([True]))
    with pytest.raises(ValueError, match="no image counts"):
        paired.count_discordant(np.zeros(0, bool), np.zeros(0, bool))
