"""Confidence intervals, which treat the images as a random sample of possible images.

So a `--limit` of n of N images counts as n. A finite-population correction would shrink the interval to
nothing at n = N, though how good the model is on such images stays an open question.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

LEVEL = 0.95


class Interval(NamedTuple):
    """Limits of a confidence interval, its level and its method's name."""

    lo: float
    hi: float
    level: float
    method: str


def wilson(hits: float, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of `hits` / `n`, n > 0 (Wilson 1927), without continuity correction."""
    lo, hi = _wilson_limits(np.asarray(hits), np.asarray(n), level)
    return Interval(float(lo), float(hi), level, "wilson")


def wilson_of_mean(mean: float, units: int, what: str, level: float = LEVEL) -> Interval:
    """Wilson's interval of a mean of numbers in 0..1 over `units` independent units.

    A wide fallback: proportions vary most of all such numbers. The method names the units: "wilson_pairs".
    """
    return wilson(mean * units, units, level)._replace(method=f"wilson_{what}")


def clopper_pearson(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Exact binomial interval of `hits` / `n`, n > 0 (Clopper & Pearson 1934)."""
    lo, hi = clopper_pearson_limits(np.asarray(hits), np.asarray(n), level)
    return Interval(float(lo), float(hi), level, "clopper_pearson")


def clopper_pearson_limits(
    hits: np.ndarray, n: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of many such intervals. int [K] each -> float64 [K] each."""
    tail = (1 - level) / 2
    # With no hit, or only hits, one quantile is undefined: that limit is 0 or 1.
    lo = scipy.stats.beta.ppf(tail, np.maximum(hits, 1), n - hits + 1)
    hi = scipy.stats.beta.ppf(1 - tail, hits + 1, np.maximum(n - hits, 1))
    return np.where(hits == 0, 0.0, lo), np.where(hits == n, 1.0, hi)


def mean_of_proportions(hits: np.ndarray, n: np.ndarray, level: float = LEVEL) -> Interval:
    """Interval of the unweighted mean of independent proportions, e.g. per-class accuracies.

    MOVER (Zou & Donner 2008). Unlike a bootstrap it does not collapse for classes with one image or no error.

    Args:
        hits, n: int [K], n > 0.
    """
    p = hits / n
    lo, hi = _wilson_limits(hits, n, level)
    mean = p.mean()
    # Distances to the Wilson limits add up like variances, each side by itself.
    down = np.sqrt(np.sum((p - lo) ** 2)) / len(p)
    up = np.sqrt(np.sum((hi - p) ** 2)) / len(p)
    return Interval(float(mean - down), float(mean + up), level, "mover_wilson")


def student_across(values: np.ndarray, what: str, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of proportions, one of each unit: how far other units would move it.

    The method names the units: "student_t_across_people". Limits stay within 0 and 1.

    Args:
        values: float [K] in 0..1, K > 1.
    """
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    half = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * error
    return Interval(
        float(max(mean - half, 0.0)), float(min(mean + half, 1.0)), level, f"student_t_across_{what}"
    )


def paired_difference(gained: int, lost: int, n: int, level: float = LEVEL) -> Interval:
    """Interval of (`gained` - `lost`) / n: the change of accuracy between two runs on the same n images.

    Only the second run has the `gained` images right, only the first the `lost`. MOVER with covariance (Tang
    et al. 2010).
    """
    p, q = gained / n, lost / n
    (lo_p, hi_p), (lo_q, hi_q) = (_wilson_limits(np.asarray(k), np.asarray(n), level) for k in (gained, lost))
    # Gained and lost are two cells of one multinomial.
    correlation = -np.sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else 0.0
    down = (p - lo_p) ** 2 + (hi_q - q) ** 2 - 2 * correlation * (p - lo_p) * (hi_q - q)
    up = (hi_p - p) ** 2 + (q - lo_q) ** 2 - 2 * correlation * (hi_p - p) * (q - lo_q)
    return Interval(float(p - q - np.sqrt(down)), float(p - q + np.sqrt(up)), level, "mover_wilson_paired")


def _wilson_limits(hits: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    z = scipy.stats.norm.ppf((1 + level) / 2)
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Rounding must not push a limit past the value itself, 0 or 1.
    return np.where(hits == 0, 0.0, centre - half), np.where(hits == n, 1.0, centre + half)
