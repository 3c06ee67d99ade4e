"""Numbers that have an interval at any level, as Holm's correction needs.

`units`: int [N], which models (or pairs) are of one unit, or None. Errors of a mean then come from the units'
sums of residuals; a shift and its ranks are those of the units' means.

Sources: Welch 1947; Hodges and Lehmann 1963; Hollander, Wolfe and Chicken 2014, section 3.3 (Wilcoxon's
interval); Zou and Donner 2008 (MOVER); Cameron and Miller 2015 (means of clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special

from clipjax.analysis.trends.resampling import Estimate

EXACT = 100  # up to this many pairs, Wilcoxon's distribution is computed exactly

Limits = tuple[float, float]
EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class BoundedNumber:
    """A number; `at(level)` is its interval (lo, hi), or `EVERYTHING`."""

    value: float
    at: Callable[[float], Limits]
    method: str


def bootstrapped(statistic: Estimate) -> BoundedNumber:
    """The bootstrap's interval; `EVERYTHING` without one, or with less than one draw beyond each end."""

    def at(level: float) -> Limits:
        limits = statistic.at(level) if len(statistic.draws) * (1 - level) / 2 >= 1 else None
        return EVERYTHING if limits is None else limits

    return BoundedNumber(statistic.value, at, statistic.method)


def mean_difference(
    first: np.ndarray,
    second: np.ndarray,
    first_units: np.ndarray | None = None,
    second_units: np.ndarray | None = None,
) -> BoundedNumber:
    """Mean of `second` [M] minus mean of `first` [N], with Welch's t interval. M, N >= 2."""
    parts = [_variance(first, first_units), _variance(second, second_units)]
    error = math.sqrt(sum(part for part, _ in parts))
    bottom = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = min(freedom for _, freedom in parts) and (error**4 / bottom if bottom else math.inf)
    names = "welch_t" if first_units is None and second_units is None else "welch_t_of_units"
    return _t(float(np.mean(second) - np.mean(first)), error, freedom, names)


def mean_of(differences: np.ndarray, units: np.ndarray | None = None) -> BoundedNumber:
    """Mean of paired differences [N >= 2], with Student's t interval."""
    part, freedom = _variance(differences, units)
    name = "paired_t" if units is None else "paired_t_of_units"
    return _t(float(np.mean(differences)), math.sqrt(part), freedom, name)


def _variance(values: np.ndarray, units: np.ndarray | None) -> tuple[float, int]:
    """The variance of the mean of values [N], and its degrees of freedom: 0 for a single unit."""
    if units is None:
        return float(np.var(values, ddof=1)) / len(values), len(values) - 1
    # Cluster-robust: values of one unit may depend on each other, so each unit's sum is one observation.
    # With a value a unit this is the variance above: U / (U - 1) * sum / N^2 = sum / (N - 1) / N.
    sums = np.bincount(units, values - np.mean(values))
    freedom = len(sums) - 1
    return float((sums**2).sum()) * len(sums) / max(freedom, 1) / len(values) ** 2, freedom


def _t(value: float, error: float, freedom: float, method: str) -> BoundedNumber:
    def at(level: float) -> Limits:
        if not freedom:
            return EVERYTHING
        wide = error * float(scipy.special.stdtrit(freedom, (1 + level) / 2))
        return value - wide, value + wide

    return BoundedNumber(value, at, method)


def shift_of(differences: np.ndarray, units: np.ndarray | None = None) -> BoundedNumber:
    """Hodges and Lehmann's shift of paired differences [N], with Wilcoxon's signed-rank interval.

    The shift is the median of the N (N + 1) / 2 pairwise means. The limits of too few differences are
    `EVERYTHING`. With units, shift and interval are those of the units' mean differences [U].
    """
    if units is not None:
        differences = np.bincount(units, differences) / np.bincount(units)
    n, means = len(differences), _pairwise_means(differences)

    def at(level: float) -> Limits:
        left_out = _rank_quantile(n, 1 - level)
        return (float(means[left_out - 1]), float(means[-left_out])) if left_out else EVERYTHING

    method = "wilcoxon_exact" if n <= EXACT else "wilcoxon_normal"
    return BoundedNumber(float(np.median(means)), at, method if units is None else f"{method}_of_units")


def _pairwise_means(differences: np.ndarray) -> np.ndarray:
    """The means of all pairs, each value also paired with itself, sorted."""
    return np.sort((differences[:, None] + differences[None, :])[np.triu_indices(len(differences))] / 2)


def _rank_quantile(n: int, alpha: float) -> int:
    """Largest k with 2 P(W < k) <= alpha, W the signed-rank statistic of n pairs, or 0."""
    if n > EXACT:  # normal: W has mean n (n + 1) / 4 and variance n (n + 1) (2 n + 1) / 24
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(0, math.floor(n * (n + 1) / 4 + spread * scipy.special.ndtri(alpha / 2)))
    below = 2 * np.cumsum(_signed_rank_probabilities(n))
    # The factor keeps an equality despite rounding.
    return int(np.searchsorted(below, alpha * (1 + 1e-12), side="right"))


def _signed_rank_probabilities(n: int) -> np.ndarray:
    """P(W = 0), P(W = 1), ... of n pairs."""
    probabilities = np.ones(1)
    for rank in range(1, n + 1):
        added = np.zeros(len(probabilities) + rank)
        added[: len(probabilities)] += probabilities / 2
        added[rank:] += probabilities / 2
        probabilities = added
    return probabilities


def difference_of(first: BoundedNumber, second: BoundedNumber) -> BoundedNumber:
    """`second` minus `first`, as if independent: distances add up as squares (MOVER)."""
    value = second.value - first.value

    def at(level: float) -> Limits:
        (lo1, hi1), (lo2, hi2) = first.at(level), second.at(level)
        down = math.hypot(second.value - lo2, hi1 - first.value)
        return value - down, value + math.hypot(hi2 - second.value, first.value - lo1)

    return BoundedNumber(value, at, "mover")
