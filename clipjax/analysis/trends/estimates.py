"""Numbers that have an interval at any level, as Holm's correction needs.

Sources: Welch 1947; Hodges and Lehmann 1963; Hollander, Wolfe and Chicken 2014, section 3.3 (Wilcoxon's
interval); Zou and Donner 2008 (MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special

from clipjax.analysis.trends.resampling import METHOD, Estimate

EXACT = 100  # up to this many pairs, Wilcoxon's distribution is computed exactly

Limits = tuple[float, float]
EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Bounded:
    """A number; `at(level)` is its interval (lo, hi), or `EVERYTHING`."""

    value: float
    at: Callable[[float], Limits]
    method: str


def bootstrapped(statistic: Estimate) -> Bounded:
    """The bootstrap's interval; `EVERYTHING` without one, or with less than one draw beyond each end."""

    def at(level: float) -> Limits:
        limits = statistic.at(level) if len(statistic.draws) * (1 - level) / 2 >= 1 else None
        return EVERYTHING if limits is None else limits

    return Bounded(statistic.value, at, METHOD)


def mean_difference(first: np.ndarray, second: np.ndarray) -> Bounded:
    """Mean of `second` [M] minus mean of `first` [N], with Welch's t interval. M, N >= 2."""
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    bottom = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    freedom = error**4 / bottom if bottom else math.inf
    return _t(float(np.mean(second) - np.mean(first)), error, freedom, "welch_t")


def mean_of(differences: np.ndarray) -> Bounded:
    """Mean of paired differences [N >= 2], with Student's t interval."""
    n = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return _t(float(np.mean(differences)), error, n - 1, "paired_t")


def _t(value: float, error: float, freedom: float, method: str) -> Bounded:
    def at(level: float) -> Limits:
        wide = error * float(scipy.special.stdtrit(freedom, (1 + level) / 2))
        return value - wide, value + wide

    return Bounded(value, at, method)


def shift_of(differences: np.ndarray) -> Bounded:
    """Hodges and Lehmann's shift of paired differences [N], with Wilcoxon's signed-rank interval.

    The shift is the median of the N (N + 1) / 2 pairwise means. With too few pairs: `EVERYTHING`.
    """
    n = len(differences)
    means = np.sort((differences[:, None] + differences[None, :])[np.triu_indices(n)] / 2)

    def at(level: float) -> Limits:
        left_out = _rank_quantile(n, 1 - level)
        return (float(means[left_out - 1]), float(means[-left_out])) if left_out else EVERYTHING

    return Bounded(float(np.median(means)), at, "wilcoxon_exact" if n <= EXACT else "wilcoxon_normal")


def _rank_quantile(n: int, alpha: float) -> int:
    """Largest k with 2 P(W < k) <= alpha, W the signed-rank statistic of n pairs, or 0."""
    if n > EXACT:
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


def difference_of(first: Bounded, second: Bounded) -> Bounded:
    """`second` minus `first`, as if independent: distances add up as squares (MOVER)."""
    value = second.value - first.value

    def at(level: float) -> Limits:
        (lo1, hi1), (lo2, hi2) = first.at(level), second.at(level)
        down = math.hypot(second.value - lo2, hi1 - first.value)
        return value - down, value + math.hypot(hi2 - second.value, first.value - lo1)

    return Bounded(value, at, "mover")
