"""Intervals against scipy, published values, and their own promise: coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from clipjax.metrics.uncertainty import intervals

CASES = [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (40, 100), (49_999, 50_000), (31_000, 50_000)]


@pytest.mark.parametrize(("hits", "n"), CASES)
@pytest.mark.parametrize("level", [0.95, 0.995])
def test_wilson_and_exact_are_scipys(hits, n, level):
    test = binomtest(hits, n)
    for ours, expected in (
        (intervals.wilson, test.proportion_ci(level, method="wilson")),
        (intervals.clopper_pearson, test.proportion_ci(level, method="exact")),
    ):
        got = ours(hits, n, level)
        assert (got.lo, got.hi) == pytest.approx((expected.low, expected.high), abs=1e-10)
        assert got.level == level


def test_clopper_pearson_oracle():
    assert intervals.clopper_pearson(40, 100)[:2] == pytest.approx((0.303295, 0.502791), abs=1e-6)
    assert intervals.clopper_pearson(40, 100, 0.995)[:2] == pytest.approx((0.266393, 0.545011), abs=1e-6)


def test_limits_hold_the_estimate():
    for hits in range(31):
        got = intervals.wilson(hits, 30)
        assert 0 <= got.lo <= hits / 30 <= got.hi <= 1


def test_mean_of_one_proportion_is_wilson():
    one = intervals.mean_of_proportions(np.array([7]), np.array([20]))
    assert one[:2] == pytest.approx(intervals.wilson(7, 20)[:2], abs=1e-12)
    assert one.method == "mover_wilson"


def test_mean_of_proportions_agrees_with_the_bootstrap_on_large_classes():
    rng = np.random.default_rng(0)
    n = rng.integers(200, 400, 20)
    hits = rng.binomial(n, 0.7)
    means = (rng.binomial(n, hits / n, size=(20_000, 20)) / n).mean(axis=1)
    got = intervals.mean_of_proportions(hits, n)
    assert got[:2] == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1.5e-3)


def test_mean_of_proportions_does_not_collapse_on_single_images():
    got = intervals.mean_of_proportions(np.array([1, 1, 0]), np.array([1, 1, 1]))
    assert got.hi - got.lo > 0.5  # a bootstrap within the classes would give [2/3, 2/3]


def test_mean_of_proportions_covers():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.3, 0.95, 10)
    inside = 0
    for _ in range(1000):
        n = np.full(10, 30)
        got = intervals.mean_of_proportions(rng.binomial(n, p), n)
        inside += got.lo <= p.mean() <= got.hi
    assert 0.93 <= inside / 1000 <= 0.98


def test_paired_difference_by_hand():
    # 5 gained and 5 lost of 100: both cells have Wilson's limits, their correlation is -0.05 / 0.95.
    lo, hi = intervals.wilson(5, 100)[:2]
    half = np.sqrt((0.05 - lo) ** 2 + (hi - 0.05) ** 2 + 2 * 0.05 / 0.95 * (0.05 - lo) * (hi - 0.05))
    got = intervals.paired_difference(5, 5, 100)
    assert got[:2] == pytest.approx((-half, half))
    none = intervals.paired_difference(0, 0, 1000)
    assert 0.003 < none.hi < 0.008  # about 3.7 / n each way: no flip seen does not mean none possible
    every = intervals.paired_difference(10, 0, 10)
    assert every.lo < 1 == pytest.approx(every.hi)


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.02, 0.08), (0.3, 0.25)])
def test_paired_difference_covers(gain, loss):
    rng = np.random.default_rng(2)
    inside = 0
    for gained, lost, _ in rng.multinomial(300, [gain, loss, 1 - gain - loss], 1000):
        got = intervals.paired_difference(int(gained), int(lost), 300)
        inside += got.lo <= gain - loss <= got.hi
    assert 0.93 <= inside / 1000 <= 0.985


def test_ignoring_the_pairing_would_be_wider():
    """Two runs of 700 right of 1000 that differ on 20 images: the paired interval knows that they are one."""
    got = intervals.paired_difference(10, 10, 1000)
    apart = intervals.wilson(700, 1000)
    assert (got.hi - got.lo) < 0.5 * (apart.hi - apart.lo)


def test_students_interval_across_people_is_scipys_within_0_and_1():
    values = np.array([0.9617, 0.9438, 0.9673, 0.9191])
    got = intervals.student_across(values, "people")
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert got[:2] == pytest.approx(expected, abs=1e-12)
    assert (got.level, got.method) == (0.95, "student_t_across_people")
    assert intervals.student_across(np.array([0.5, 1.0]), "people")[:2] == (0.0, 1.0)
