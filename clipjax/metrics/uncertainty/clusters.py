"""The interval of a mean over few clusters: bootstrap-t on the logit scale.

A bootstrap's percentiles are too narrow for a few dozen scenes, and Student's t is where clusters differ in
size or their means are skewed. Bootstrap-t (Efron 1982) divides each draw by its own standard error, the
jackknife's over clusters, and so finds how much wider than a normal deviate the error is. The logit scale
(as DeLong's interval of AUROC) keeps the limits within 0..1; one limit is as far from the mean as the other.
`benchmarks/metrics/resampling_coverage.py` prints the coverage.
"""

from __future__ import annotations

import numpy as np
import scipy.special
from jaxtyping import Float64

from clipjax.metrics.uncertainty.bootstrap import Resampling
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, wilson_of_mean

FEWEST = 10  # clusters: with fewer no interval that is known to cover


def mean_over_clusters(
    means: Float64[np.ndarray, " C"],
    sizes: Float64[np.ndarray, " C"],
    data: str,
    *,
    resamples: int,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval | None:
    """Interval of sum(sizes * means) / sum(sizes); None for fewer than `FEWEST` clusters.

    Where the clusters' means do not differ, or too many draws are 0 or 1: Wilson's, with one observation a
    cluster.

    Args:
        means: each cluster's mean, in 0..1.
        sizes: its units, above 0.
        data: a name; with `seed` it decides the resamples, as in `Resampling`.
    """
    count = len(means)
    if count < FEWEST:
        return None
    ones = np.ones((1, count))
    [value], [error] = (part for part in _mean_and_error(means, sizes, ones))
    blocks = Resampling(data, count, resamples=resamples, seed=seed).blocks(resamples)
    distance = np.concatenate(
        [_distance(value, *_mean_and_error(means, sizes, weights)) for weights in blocks]
    )
    reach = float(np.quantile(distance, level, method="higher")) if 0 < value < 1 and error > 0 else np.inf
    if not np.isfinite(reach):
        return wilson_of_mean(float(value), count, "clusters", level)
    centre, half = scipy.special.logit(value), reach * error / (value * (1 - value))
    lo, hi = scipy.special.expit([centre - half, centre + half])
    return Interval(float(lo), float(hi), level, f"cluster_bootstrap_t_{resamples}")


def _mean_and_error(
    means: np.ndarray, sizes: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [B, C] -> the weighted mean and its jackknife standard error, float64 [B] each."""
    share = weights * sizes
    one = sizes / share.sum(axis=1, keepdims=True)  # of a cluster drawn once
    value = (share * means).sum(axis=1) / share.sum(axis=1)
    # Without one copy of a cluster the mean moves by -one * (its mean - the mean) / (1 - one). A resample of
    # a single cluster does not move.
    left = 1 - np.where(weights > 0, one, 0)
    moved = np.divide(one * (means - value[:, None]), left, out=np.zeros(left.shape), where=left > 1e-12)
    count = weights.sum(axis=1)
    return value, np.sqrt((count - 1) / count * (weights * moved**2).sum(axis=1))


def _distance(value: float, drawn: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Distance of the draws' logits from the value's, in the draws' standard errors; infinite without any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.abs(scipy.special.logit(drawn) - scipy.special.logit(value))
        distance = moved * drawn * (1 - drawn) / error
    return np.where(np.isfinite(distance) & (error > 0), distance, np.inf)
