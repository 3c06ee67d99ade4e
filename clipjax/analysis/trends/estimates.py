"""Numbers with intervals at any level: what a claim is decided by. Pure numpy and scipy.

A `Bounded` number gives its interval at the level asked for, so that one computation serves several levels
(Holm's correction asks for many). Sources: Welch 1947; Hodges and Lehmann 1963; Hollander, Wolfe and Chicken
2014, section 3.3 (Wilcoxon's interval); Zou and Donner 2008 (MOVER: differences of independent numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from clipjax.analysis.trends.resampling import METHOD, Estimate

EXACT = 100  # pairs, up to which the distribution of Wilcoxon's statistic is counted out

Limits = tuple[float, float]
EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Bounded:
    """A number. `at(level)` is its interval (lo, hi), `EVERYTHING` where it cannot be told; `method` names
    how the interval is made."""

    value: float
    at: Callable[[float], Limits]
    method: str


def bootstrapped(found: Estimate) -> Bounded:
    """A number with the interval of a bootstrap over models.

    A level that the draws do not resolve (their outermost would bound it) has no interval.
    """

    def at(level: float) -> Limits:
        limits = found.at(level) if len(found.draws) * (1 - level) / 2 >= 1 else None
        return EVERYTHING if limits is None else limits

    return Bounded(found.value, at, METHOD)


def mean_difference(first: np.ndarray, second: np.ndarray) -> Bounded:
    """Mean of `second` [M] less that of `first` [N], with Welch's t interval. M and N are 2 or more."""
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    bottom = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    freedom = error**4 / bottom if bottom else math.inf
    return _t(float(np.mean(second) - np.mean(first)), error, freedom, "welch_t")


def mean_of(differences: np.ndarray) -> Bounded:
    """Mean of paired differences [N], with Student's t interval. N is 2 or more."""
    n = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return _t(float(np.mean(differences)), error, n - 1, "paired_t")


def _t(value: float, error: float, freedom: float, method: str) -> Bounded:
    def at(level: float) -> Limits:
        wide = error * float(scipy.stats.t.ppf((1 + level) / 2, freedom))
        return value - wide, value + wide

    return Bounded(value, at, method)


def shift_of(differences: np.ndarray) -> Bounded:
    """Hodges and Lehmann's shift of paired differences [N], with the interval of Wilcoxon's signed-rank test.

    The shift is the median of the N (N + 1) / 2 means of two (or of one with itself). Its interval holds the
    shifts that the test does not reject; with too few pairs for the level it is everything.
    """
    n = len(differences)
    means = np.sort((differences[:, None] + differences[None, :])[np.triu_indices(n)] / 2)

    def at(level: float) -> Limits:
        left_out = _rank_quantile(n, 1 - level)
        return (float(means[left_out - 1]), float(means[-left_out])) if left_out else EVERYTHING

    return Bounded(float(np.median(means)), at, "wilcoxon_exact" if n <= EXACT else "wilcoxon_normal")


def _rank_quantile(n: int, alpha: float) -> int:
    """The largest k with 2 P(W < k) <= alpha, W the signed-rank statistic of n pairs; 0 if there is none."""
    if n > EXACT:
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(0, math.floor(n * (n + 1) / 4 + spread * scipy.stats.norm.ppf(alpha / 2)))
    below = 2 * np.cumsum(_signed_rank_probabilities(n))
    return int(np.searchsorted(below, alpha * (1 + 1e-12), side="right"))


def _signed_rank_probabilities(n: int) -> np.ndarray:
    """P(W = 0), P(W = 1), ...: each rank counts with a probability of one half."""
    found = np.ones(1)
    for rank in range(1, n + 1):
        added = np.zeros(len(found) + rank)
        added[: len(found)] += found / 2
        added[rank:] += found / 2
        found = added
    return found


def difference_of(first: Bounded, second: Bounded) -> Bounded:
    """`second` less `first` of two independent numbers; each side's distances add up as squares (MOVER)."""
    value = second.value - first.value

    def at(level: float) -> Limits:
        (lo1, hi1), (lo2, hi2) = first.at(level), second.at(level)
        down = math.hypot(second.value - lo2, hi1 - first.value)
        return value - down, value + math.hypot(hi2 - second.value, first.value - lo1)

    return Bounded(value, at, "mover")
