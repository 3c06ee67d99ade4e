"""Intervals of the ranks of many models on the same images, which hold for all models together.

Of every ordered pair of models a test asks whether the first is better. A pair is decided where its
difference, in standard errors, exceeds what the largest of all pairs reaches by chance (max-t, from the
covariance of the models' means). Then the decided pairs leave and the others are tested again (step-down).
A model's rank is at least 1 + the models better than it, and at most the number of models - those that are
worse. Mogstad, Romano, Shaikh & Wilhelm 2023; equal to the R package csranks.

With probability `level` all intervals hold at once; the ranks of models that are truly equal lie in each of
their intervals. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from clipjax.metrics.uncertainty.intervals import LEVEL

FEWEST = 30  # images: the intervals of 12 equal models hold in .93 or more of draws from here on
EQUAL = 1e-12  # variances of a difference below this share of the two variances are rounding


class PairedMeans(NamedTuple):
    """Means of models on the same images, and what chance does to them.

    Attributes:
        means: float64 [M], higher is better.
        errors: float64 [M, M], the standard error of each difference of two means; 0 if they differ by the
            same amount on every image.
        draws: float64 [R, M], deviations of all means that chance would give, with their covariance.
    """

    means: np.ndarray
    errors: np.ndarray
    draws: np.ndarray


class RankLimits(NamedTuple):
    """Ranks of the models; 1 is the best.

    Attributes:
        lo: int64 [M], 1 + the number of models that are decidedly better.
        hi: int64 [M], M - the number of models that are decidedly worse.
        better: bool [M, M], whether the first model is decidedly better than the second.
    """

    lo: np.ndarray
    hi: np.ndarray
    better: np.ndarray


class Decided(NamedTuple):
    """The ranks of each set of images, and the critical value of each step, in standard errors."""

    ranks: list[RankLimits]
    critical: list[float]


def covariance_of_means(scores: Shaped[np.ndarray, "M N"]) -> Float64[np.ndarray, "M M"]:
    """The covariance of the models' means over N > 1 images, from the covariance over images (ddof 1)."""
    n = scores.shape[1]
    centred = np.asarray(scores, np.float64) - scores.mean(axis=1, dtype=np.float64, keepdims=True)
    return centred @ centred.T / ((n - 1) * n)


def errors_of_differences(covariance: Float64[np.ndarray, "M M"]) -> Float64[np.ndarray, "M M"]:
    """The standard errors of all differences of two means; 0 where only rounding is left."""
    own = np.diag(covariance)
    total = own[:, None] + own
    variance = total - 2 * covariance
    return np.sqrt(np.where(variance <= EQUAL * total, 0, variance))


def paired_means(scores: Shaped[np.ndarray, "M N"], draws: int, rng: np.random.Generator) -> PairedMeans:
    """Means of M models' scores on the same N images, and draws of a multivariate t with their covariance.

    Args:
        scores: e.g. whether each model is right about each image; higher is better.
        draws: R, the number of draws.

    Raises:
        ValueError: fewer than two models or fewer than `FEWEST` images, or a score is not finite.
    """
    models, n = scores.shape
    if models < 2:
        raise ValueError(f"ranks need two models or more, there is {models}")
    if n < FEWEST:
        raise ValueError(f"ranks need {FEWEST} images or more, there are {n}")
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        raise ValueError("ranks need scores that are numbers: one is NaN or infinity")
    covariance = covariance_of_means(scores)
    values, vectors = np.linalg.eigh(covariance)
    # Student's t, not normal: the errors are estimated, too. With few images that is what keeps the level.
    spread = np.sqrt((n - 1) / rng.chisquare(n - 1, (draws, 1)))
    drawn = spread * rng.standard_normal((draws, models)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
    return PairedMeans(scores.mean(axis=1, dtype=np.float64), errors_of_differences(covariance), drawn)


def decide_ranks(
    samples: Sequence[PairedMeans], level: float = LEVEL, *, side: str = "both", step_down: bool = True
) -> Decided:
    """Decide which models are better than which, at once for all pairs of all sets of images.

    Args:
        samples: one for each set of images; together they are one family of tests.
        level: the probability that no decision is wrong.
        side: "both"; "best": only `lo`, the best rank that a model may have; "worst": only `hi`. The tests
            are the same, so that neither side gains by leaving out the other.
        step_down: test again without the pairs that are decided.

    Raises:
        ValueError: another `side`.
    """
    if side not in ("both", "best", "worst"):
        raise ValueError(f"side is {side!r}; give both, best or worst")
    scaled = [_scaled(each) for each in samples]
    # Without chance in a difference, it is decided by its sign, and takes no part in the maximum.
    live = [each.errors > 0 for each in samples]
    decided = [~alive & (statistic > 0) for alive, statistic in zip(live, scaled)]
    critical: list[float] = []
    while any(each.any() for each in live):
        largest = np.max([_largest(each, alive) for each, alive in zip(samples, live)], axis=0)
        critical.append(float(np.quantile(largest, level)))
        new = [alive & (statistic > critical[-1]) for alive, statistic in zip(live, scaled)]
        decided = [old | more for old, more in zip(decided, new)]
        # Only the decided direction leaves: the opposite one may still be true.
        live = [alive & ~more for alive, more in zip(live, new)]
        if not step_down or not any(each.any() for each in new):
            break
    return Decided([_ranks(better, side) for better in decided], critical)


def _scaled(sample: PairedMeans) -> Float64[np.ndarray, "M M"]:
    """Every difference of two means in standard errors; the difference itself where the error is 0."""
    difference = sample.means[:, None] - sample.means
    difference[np.abs(difference) <= EQUAL] = 0
    return difference / np.where(sample.errors > 0, sample.errors, 1)


def _largest(sample: PairedMeans, live: Bool[np.ndarray, "M M"]) -> Float64[np.ndarray, " R"]:
    """The largest difference of a live pair, in standard errors, in each draw."""
    # A model at a time, with draws along the last axis: [M, R] numbers, not one for each pair and draw.
    draws = np.ascontiguousarray(sample.draws.T)
    largest = np.full(draws.shape[1], -np.inf)
    for k, row in enumerate(live):
        if row.any():
            difference = draws[k] - draws[row]
            difference /= sample.errors[k, row, None]
            np.maximum(largest, difference.max(axis=0), out=largest)
    return largest


def _ranks(better: Bool[np.ndarray, "M M"], side: str) -> RankLimits:
    models = len(better)
    lo = 1 + better.sum(axis=0)
    hi = models - better.sum(axis=1)
    everywhere: Int64[np.ndarray, " M"] = np.full(models, 1)
    return RankLimits(
        everywhere if side == "worst" else lo, models * everywhere if side == "best" else hi, better
    )
