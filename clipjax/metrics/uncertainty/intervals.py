"""Confidence intervals, which treat the images as a random sample of possible images.

So n of N images count as n: a finite-population correction would leave no interval at n = N.

Quantiles come from `scipy.special`: `scipy.stats` gives the same bits and takes half a second to load.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

LEVEL = 0.95


class Interval(NamedTuple):
    lo: float
    hi: float
    level: float
    method: str


def wilson(hits: float, n: float, level: float = LEVEL) -> Interval:
    """Wilson's score interval (1927), without continuity correction; n > 0, not always whole (effective)."""
    lo, hi = _wilson_limits(np.asarray(hits), np.asarray(n), level)
    return Interval(float(lo), float(hi), level, "wilson")


def wilson_of_mean(mean: float, units: int, what: str, level: float = LEVEL) -> Interval:
    """Wilson's interval of a mean of numbers in 0..1 over independent units.

    A wide fallback: proportions vary most of all such numbers.
    """
    return wilson(mean * units, units, level)._replace(method=f"wilson_{what}")


def clopper_pearson(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Exact binomial interval, n > 0 (Clopper & Pearson 1934)."""
    lo, hi = clopper_pearson_limits(np.asarray(hits), np.asarray(n), level)
    return Interval(float(lo), float(hi), level, "clopper_pearson")


def clopper_pearson_limits(
    hits: np.ndarray, n: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """int [K] each -> float64 [K] each."""
    tail = (1 - level) / 2
    # With no hit, or only hits, one quantile is undefined: that limit is 0 or 1.
    lo = scipy.special.betaincinv(np.maximum(hits, 1), n - hits + 1, tail)
    hi = scipy.special.betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - tail)
    return np.where(hits == 0, 0.0, lo), np.where(hits == n, 1.0, hi)


def mean_of_proportions(hits: np.ndarray, n: np.ndarray, level: float = LEVEL) -> Interval:
    """Interval of the unweighted mean of independent proportions: int [K], n > 0.

    MOVER (Zou & Donner 2008). A bootstrap would collapse for classes with one image or no error.
    """
    p = hits / n
    lo, hi = _wilson_limits(hits, n, level)
    mean = p.mean()
    # Distances to the Wilson limits add up like variances, each side by itself.
    down = np.sqrt(np.sum((p - lo) ** 2)) / len(p)
    up = np.sqrt(np.sum((hi - p) ** 2)) / len(p)
    return Interval(float(mean - down), float(mean + up), level, "mover_wilson")


def student_across(values: np.ndarray, what: str, level: float = LEVEL) -> Interval:
    """Student's t interval of a mean over units: float [K] in 0..1, K > 1. Cut to 0..1."""
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    half = scipy.special.stdtrit(len(values) - 1, (1 + level) / 2) * error
    return Interval(
        float(max(mean - half, 0.0)), float(min(mean + half, 1.0)), level, f"student_t_across_{what}"
    )


def over_images_and(
    what: str, values: np.ndarray, lows: np.ndarray, highs: np.ndarray, level: float = LEVEL
) -> Interval:
    """Interval of the mean over units (seeds, prompts) that were all run on the same images.

    Both images and units are random: Student's t across units, and the mean distance to the limits over the
    images, add up like variances, each side by itself (MOVER). The images' part is an upper bound, since the
    units need not err on the same images. With three or five units a pigeonhole bootstrap is too narrow.

    Args:
        what: the units, for the interval's method.
        values: float [K], K > 1, each unit's number.
        lows: float [K], each unit's lower limit over the images.
        highs: float [K], each unit's upper limit over the images.
    """
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    across = scipy.special.stdtrit(len(values) - 1, (1 + level) / 2) * error
    down, up = np.hypot(across, (values - lows).mean()), np.hypot(across, (highs - values).mean())
    return Interval(float(mean - down), float(mean + up), level, f"mover_student_t_across_{what}_and_images")


def paired_difference(gained: float, lost: float, n: float, level: float = LEVEL) -> Interval:
    """Interval of (`gained` - `lost`) / n: MOVER with covariance (Tang et al. 2010).

    Only the second run has the `gained` images right, only the first the `lost`.
    """
    p, q = gained / n, lost / n
    lo_p, hi_p = _wilson_limits(np.asarray(gained), np.asarray(n), level)
    lo_q, hi_q = _wilson_limits(np.asarray(lost), np.asarray(n), level)
    # Gained and lost are two cells of one multinomial.
    correlation = -np.sqrt(p * q / ((1 - p) * (1 - q))) if p < 1 and q < 1 else 0.0
    below_p, above_p, below_q, above_q = p - lo_p, hi_p - p, q - lo_q, hi_q - q
    # p - q is low where p is low and q high; the distances add up as those of correlated errors.
    down = below_p**2 + above_q**2 - 2 * correlation * below_p * above_q
    up = above_p**2 + below_q**2 - 2 * correlation * above_p * below_q
    return Interval(float(p - q - np.sqrt(down)), float(p - q + np.sqrt(up)), level, "mover_wilson_paired")


def _wilson_limits(hits: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    # Wilson (1927): the true shares t with |p - t| <= z sqrt(t (1 - t) / n), a quadratic inequality in t.
    z = scipy.special.ndtri((1 + level) / 2)
    p = hits / n
    leading = 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / leading
    half = z / leading * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Rounding must not push a limit past the value itself, 0 or 1.
    return np.where(hits == 0, 0.0, centre - half), np.where(hits == n, 1.0, centre + half)
