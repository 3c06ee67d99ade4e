"""The interval of a mean over few clusters: against a loop, and at its borders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from clipjax.metrics.uncertainty.bootstrap import Resampling
from clipjax.metrics.uncertainty.clusters import mean_over_clusters
from clipjax.metrics.uncertainty.intervals import wilson_of_mean

RNG = np.random.default_rng(0)
MEANS, SIZES = RNG.beta(2, 3, 12), RNG.integers(1, 9, 12).astype(float)


def mean(means: np.ndarray, sizes: np.ndarray) -> float:
    return float(np.average(means, weights=sizes))


def jackknife(means: np.ndarray, sizes: np.ndarray) -> float:
    """Tukey's: around the mean of all."""
    left = [mean(np.delete(means, k), np.delete(sizes, k)) for k in range(len(means))]
    return float(np.sqrt((len(means) - 1) / len(means) * np.sum((np.array(left) - mean(means, sizes)) ** 2)))


def test_it_is_that_of_a_loop():
    value, error = mean(MEANS, SIZES), jackknife(MEANS, SIZES)
    distance = []
    for drawn in next(Resampling("x", 12, resamples=99).blocks(99)):
        rows = np.repeat(np.arange(12), drawn)
        again = mean(MEANS[rows], SIZES[rows])
        scaled = jackknife(MEANS[rows], SIZES[rows]) / (again * (1 - again))
        distance.append(abs(logit(again) - logit(value)) / scaled)
    half = np.quantile(distance, 0.95, method="higher") * error / (value * (1 - value))
    got = mean_over_clusters(MEANS, SIZES, "x", resamples=99)
    assert got is not None
    assert got[:2] == pytest.approx((expit(logit(value) - half), expit(logit(value) + half)), rel=1e-9)
    assert got[2:] == (0.95, "cluster_bootstrap_t_99")


def test_it_depends_on_name_and_seed_alone_and_is_mirrored():
    got = mean_over_clusters(MEANS, SIZES, "x", resamples=200)
    assert got == mean_over_clusters(MEANS, SIZES, "x", resamples=200)
    assert got != mean_over_clusters(MEANS, SIZES, "y", resamples=200)
    assert got != mean_over_clusters(MEANS, SIZES, "x", resamples=200, seed=1)
    other = mean_over_clusters(1 - MEANS, SIZES, "x", resamples=200)
    assert got is not None
    assert other is not None
    assert other[:2] == pytest.approx((1 - got.hi, 1 - got.lo))


def test_fewer_than_ten_clusters_have_none():
    assert mean_over_clusters(MEANS[:9], SIZES[:9], "x", resamples=50) is None
    assert mean_over_clusters(MEANS[:10], SIZES[:10], "x", resamples=50) is not None


@pytest.mark.parametrize("means", [np.zeros(12), np.ones(12), np.full(12, 0.7), np.eye(12)[0]])
def test_where_nothing_differs_or_one_cluster_decides_it_is_wilsons(means):
    """With one cluster above 0 a third of the resamples have a mean of 0."""
    got = mean_over_clusters(means, SIZES, "x", resamples=200)
    assert got == wilson_of_mean(mean(means, SIZES), 12, "clusters")
