"""Uncertainty of an ECE: the null band, a bias-corrected ECE, its interval, and the difference of two.

The plug-in ECE is the bins' mean |gap| (accuracy - confidence), weighted by images. Noise only adds to |gap|:
the plug-in is above the true ECE, most of all for a calibrated model, and a bootstrap of it stays there.

Gaps of bins are nearly normal, so E |gap| = error * folded(true gap / error), folded(t) = E |N(t, 1)|. This
gives mean and variance of the plug-in for any true gaps. Three patterns of true gaps, each scaled to an ECE:

- the observed gaps: the corrected ECE is the one whose expected plug-in is the observed plug-in;
- the observed gaps less their noise: for the interval's lower limit;
- gaps in proportion to the errors, to which noise adds least: for the upper limit, which errs upwards.

There is an interval only where the plug-in lies above the null band. So its lower limit is computed among
such plug-ins (conditional inference, Fithian et al. 2014): intervals given by chance must cover, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Float64, Int

from clipjax.metrics.uncertainty.bootstrap import BLOCK, RESAMPLES, generator
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval

METHOD = "folded_normal"
FEWEST = 200  # images of an interval: with 100 it covers .90 to .98, with 30 .81 to .95
LEAST_ERROR = 1e-12  # of a gap: bins whose images are all certain and right have none
STEPS = 34  # of a bisection of 0..1, to 1e-10
MOST_ERRORS = 37.0  # standard errors: beyond them p is 0 in float64


class Gaps(NamedTuple):
    """The bins' differences between accuracy and confidence.

    Attributes:
        share: float64 [B], each bin's share of the images; 0 for an empty bin.
        gap: float64 [B], accuracy - confidence; 0 for an empty bin.
        error: float64 [B], the standard error of `gap`.
        images: the number of images in all bins.
    """

    share: np.ndarray
    gap: np.ndarray
    error: np.ndarray
    images: int


class NullBand(NamedTuple):
    """The plug-in ECEs of calibrated models: their mean, and the limit that `level` of them do not exceed."""

    mean: float
    hi: float
    level: float


class Binned(NamedTuple):
    """A run's gaps, and how each image moves its plug-in ECE, float64 [N]."""

    gaps: Gaps
    pull: np.ndarray


def gaps_of(
    confidence: Float[np.ndarray, " N"],
    correct: Bool[np.ndarray, " N"],
    bin_: Int[np.ndarray, " N"],
    bins: int,
) -> Gaps:
    """The gap between accuracy and confidence in each bin, with its variance.

    Args:
        bin_: each image's bin, 0..`bins`-1.
    """
    exact = np.asarray(confidence, np.float64)
    rest = correct - exact
    parts = (np.ones(len(exact)), rest, rest**2, exact * (1 - exact))
    images, total, squares, promised = (np.bincount(bin_, part, bins) for part in parts)
    divisor = np.maximum(images, 1)
    gap = total / divisor
    # Variance of the images and of one more that varies as their confidences promise. Otherwise a bin of a
    # few images, all of them right, would have no error.
    variance = (np.maximum(squares - images * gap**2, 0) + promised / divisor) / divisor
    error = np.maximum(np.sqrt(variance / divisor), LEAST_ERROR)
    return Gaps(images / max(len(exact), 1), gap, error, len(exact))


def binned(
    confidence: Float[np.ndarray, " N"],
    correct: Bool[np.ndarray, " N"],
    bin_: Int[np.ndarray, " N"],
    bins: int,
) -> Binned:
    """An image moves the plug-in by its correct - confidence, times the sign of its bin's gap."""
    gaps = gaps_of(confidence, correct, bin_, bins)
    return Binned(gaps, np.sign(gaps.gap)[bin_] * (correct - np.asarray(confidence, np.float64)))


def plug_in(gaps: Gaps) -> float:
    return float(gaps.share @ np.abs(gaps.gap))


def corrected(gaps: Gaps) -> float:
    """The bias-corrected ECE: 0 where the plug-in is no larger than a calibrated model's mean."""
    value, pattern = plug_in(gaps), _pattern(gaps, np.abs(gaps.gap))
    return float(_largest(lambda ece: _moments(gaps, ece * pattern)[0] <= value, np.array([value]))[0])


def interval(gaps: Gaps, band: NullBand, level: float = LEVEL) -> Interval | None:
    """The interval of the true ECE; None for a plug-in inside the null band, or fewer than `FEWEST` images.

    At least .93 of the intervals that are not None cover (`benchmarks/metrics/calibration_coverage.py`).
    """
    value = plug_in(gaps)
    if value <= band.hi or gaps.images < FEWEST:
        return None
    z = np.array([scipy.special.ndtri((1 + level) / 2)])
    lo, hi = _lower(gaps, z, above=band.hi), _upper(gaps, z)
    return Interval(float(lo[0]), max(float(hi[0]), value), level, METHOD)


def null_band(values: Float64[np.ndarray, " R"], level: float = LEVEL) -> NullBand:
    """The band of the plug-in ECEs of calibrated models."""
    return NullBand(float(np.mean(values)), float(np.quantile(values, level)), level)


def null_sums(
    confidence: Float[np.ndarray, " N"],
    marks: Any,
    data: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    block: int = BLOCK,
) -> Float64[np.ndarray, "R K"]:
    """Summed correct - confidence of calibrated models, for each column of `marks`.

    Such a model is right about an image with the probability of its confidence. `data`, a name, and `seed`
    decide its answers.

    Args:
        marks: float64 [N, K], an array or a sparse one: 1 where image n is in bin k.
        resamples: R, the number of models.
        block: the most answers drawn at once (at least one model's).
    """
    draw, chance = generator(f"{data}: calibrated", seed), np.asarray(confidence, np.float64)
    rows, expected = max(1, block // max(1, len(chance))), chance @ marks
    sums = []
    for start in range(0, resamples, rows):
        correct = draw.random((min(rows, resamples - start), len(chance))) < chance
        sums.append(correct.astype(np.float64) @ marks - expected)
    return np.concatenate(sums)


def difference(first: Binned, second: Binned, level: float = LEVEL) -> tuple[Interval, float]:
    """Interval of second - first of two true ECEs on the same images, and its two-sided p-value.

    MOVER (Zou & Donner 2008) of the two ECEs' limits, with the correlation of the images' pulls. p is the
    smallest 1 - level whose interval excludes 0.
    """
    correlation = _correlation(first.pull, second.pull)

    def limits(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _mover(first.gaps, second.gaps, z, correlation)

    lo, hi = limits(np.array([scipy.special.ndtri((1 + level) / 2)]))
    outside, inside = 0.0, MOST_ERRORS
    for _ in range(3):  # each time 64 times closer to the z whose interval ends at 0
        z = np.linspace(outside, inside, 65)
        below, above = limits(z)
        k = int(np.argmax(np.append((below <= 0) & (above >= 0), True)))
        outside, inside = z[max(k - 1, 0)], z[min(k, 64)]
    p_value = 2 * scipy.special.ndtr(-inside)
    return Interval(float(lo[0]), float(hi[0]), level, f"mover_{METHOD}"), float(p_value)


def _mover(first: Gaps, second: Gaps, z: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits of second - first by MOVER (see `difference`), an interval for each normal quantile `z`."""
    value1, value2 = corrected(first), corrected(second)
    # Distances from each ECE down and up to its own limits.
    down1, up1 = np.maximum(value1 - _lower(first, z), 0), np.maximum(_upper(first, z) - value1, 0)
    down2, up2 = np.maximum(value2 - _lower(second, z), 0), np.maximum(_upper(second, z) - value2, 0)
    # The difference is low where the second is low and the first high: the distances to these limits add up
    # as those of correlated errors.
    below = down2**2 + up1**2 - 2 * correlation * down2 * up1
    above = up2**2 + down1**2 - 2 * correlation * up2 * down1
    change = value2 - value1
    return change - np.sqrt(np.maximum(below, 0)), change + np.sqrt(np.maximum(above, 0))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _lower(gaps: Gaps, z: np.ndarray, above: float = -np.inf) -> np.ndarray:
    """Largest ECE at which a plug-in as large as this (of those above `above`) is as rare as N(0, 1) > z."""
    value, rarity = plug_in(gaps), scipy.special.log_ndtr(-z)
    pattern = _pattern(gaps, np.sqrt(np.maximum(gaps.gap**2 - gaps.error**2, 0)))

    def too_low(ece: np.ndarray) -> np.ndarray:
        mean, deviation = _moments(gaps, ece * pattern)
        as_large, any_above = (scipy.special.log_ndtr((mean - t) / deviation) for t in (value, above))
        return as_large - any_above < rarity

    return _largest(too_low, np.full(len(z), value))


def _upper(gaps: Gaps, z: np.ndarray) -> np.ndarray:
    """The smallest ECE at which a plug-in as small as this is as rare as N(0, 1) < -z."""
    value, pattern = plug_in(gaps), _pattern(gaps, gaps.error)

    def possible(ece: np.ndarray) -> np.ndarray:
        mean, deviation = _moments(gaps, ece * pattern)
        return mean - z * deviation <= value

    return _largest(possible, np.ones(len(z)))


def _largest(holds: Callable[[np.ndarray], np.ndarray], most: np.ndarray) -> np.ndarray:
    """The numbers of 0..most, [K], up to which `holds` of [K, 1] is true; 0 where it never is."""
    low, high = np.zeros(len(most)), most
    for _ in range(STEPS):
        middle = (low + high) / 2
        true = holds(middle[:, None])
        low, high = np.where(true, middle, low), np.where(true, high, middle)
    return low


def _pattern(gaps: Gaps, sizes: np.ndarray) -> np.ndarray:
    """|gaps| in proportion to `sizes`, of ECE 1; to the errors where all sizes are 0."""
    ece = gaps.share @ sizes
    return sizes / ece if ece > 0 else gaps.error / (gaps.share @ gaps.error)


def _moments(gaps: Gaps, true: Float64[np.ndarray, "K B"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the plug-in ECE, [K], where the bins' true |gaps| are `true`."""
    share, error = gaps.share, gaps.error
    size = error * _folded(true / error)
    noise = (error**2 + true**2 - size**2) @ share**2
    # And the noise of how many images fall into each bin.
    noise += np.maximum(true**2 @ share - (true @ share) ** 2, 0) / max(gaps.images, 1)
    return size @ share, np.sqrt(np.maximum(noise, LEAST_ERROR**2))


def _folded(t: np.ndarray) -> np.ndarray:
    """E |N(t, 1)|, t >= 0: the mean of a folded normal distribution (Leone et al. 1961)."""
    return t * scipy.special.erf(t / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.exp(-(t**2) / 2)
