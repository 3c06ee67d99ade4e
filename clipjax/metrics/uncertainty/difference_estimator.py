"""A share of all N images, or a difference of two, from n of them and from other models' answers to all.

The helpers are models that were measured on all N images. A ridge regression on their answers predicts y, the
target's answer to an image, and the prediction f corrects the mean of the n measured images:

    value = w mean_N(f) + mean_n(y - w f)

Whatever f is, the value is right on average; a good f makes its error small. f is cross-fitted: the images
that it predicts did not train it. The weight w = cov(y, f) / var(f), within 0..1, turns useless helpers off.

Sources: the difference estimator of survey sampling (Sarndal, Swensson & Wretman 1992); PPI++ (Angelopoulos,
Duchi & Zrnic 2023), which also tunes w. Intervals are Wilson's, or MOVER's of a difference, for the
number of images that would tell as much without helpers (the effective sample size), with a quantile of
Student's t. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Float64, Int, Shaped

from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, paired_difference, wilson

FEWEST = 30  # measured images
FEWEST_TELLING = 10  # images with the rarer answer, or that only one model gets right: fewer measure no gain
FOLDS = 10
PENALTIES = np.geomspace(0.001, 1000, 13)  # of the ridge, in units of the helpers' mean variance

_IntervalOf = Callable[[float, float, float], Interval]  # of (value, images, level)


class CorrectedMean(NamedTuple):
    """`error`: standard error as an estimate of the mean of all N images; `error_beyond`: of the mean of the
    population that all N are a sample of."""

    value: float
    error: float
    error_beyond: float


class CorrectedEstimate(NamedTuple):
    """A share, or a difference of shares.

    Attributes:
        value: the estimate.
        interval: of the number that all N images would give.
        interval_beyond: of the number of the images that all N are a sample of, as in result rows.
        gain: variance without helpers over variance with them, as measured on the n images and one more that
            the predictions miss by 1; never below 1.
        weight: w above; 0 where helpers are not used.
    """

    value: float
    interval: Interval
    interval_beyond: Interval
    gain: float
    weight: float


def corrected_mean(
    y: Float[np.ndarray, " n"], f: Float[np.ndarray, " n"], mean_of_f: float, of: int, weight: float
) -> CorrectedMean:
    """The difference estimator with a given weight, and its standard errors.

    Args:
        y: the target's answers to the measured images.
        f: their predictions.
        mean_of_f: the mean prediction over all images.
        of: N, the number of all images.
        weight: of the predictions; 0 is the plain mean of y.
    """
    residual, n = y - weight * f, len(y)
    variance = residual.var(ddof=1) / n * (1 - n / of)
    value = weight * mean_of_f + residual.mean()
    beyond = variance + y.var(ddof=1) / of
    return CorrectedMean(float(value), float(np.sqrt(variance)), float(np.sqrt(beyond)))


def tuned_weight(y: Float[np.ndarray, " n"], f: Float[np.ndarray, " n"]) -> float:
    """The weight of smallest variance, cov(y, f) / var(f); 0 if f is constant. It may be outside 0..1."""
    variance = f.var(ddof=1)
    return float(np.cov(y, f, ddof=1)[0, 1] / variance) if variance > 0 else 0.0


def cross_fitted(
    y: Float[np.ndarray, " n"],
    helpers: Shaped[np.ndarray, "n K"],
    means: Float[np.ndarray, " K"],
    of: int,
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, " n"], float]:
    """Predictions of y by a ridge regression on the helpers' answers, and their mean over all N images.

    An image's prediction comes from a fit without its fold. The images that were not measured are predicted
    by the mean of all fits. No constant is added: it would not change the estimate.

    Args:
        y: the target's answers.
        helpers: the answers of K helpers to the same images.
        means: the mean of each helper over all N images.
        of: N.
        rng: divides the images into folds.
    """
    n = len(y)
    x = np.asarray(helpers, np.float64) - means
    fold = rng.permutation(n) % FOLDS
    f, slope = np.empty(n), np.zeros(x.shape[1])
    for k in range(FOLDS):
        own = fold == k
        beta = _ridge(x[~own], y[~own])
        f[own] = x[own] @ beta
        slope += beta * own.sum() / n
    # x is 0 on average over all N images, so over those not measured it is -n / (N - n) times its mean here.
    not_measured = -n * x.mean(axis=0) @ slope
    return f, float((f.sum() + not_measured) / of)


def share_of_all(
    right: Bool[np.ndarray, " n"],
    helpers: Shaped[np.ndarray, "n K"],
    means: Float[np.ndarray, " K"],
    of: int,
    rng: np.random.Generator,
    level: float = LEVEL,
    *,
    minus: Bool[np.ndarray, " n"] | None = None,
) -> tuple[CorrectedEstimate, CorrectedEstimate]:
    """The share of all N images that a model has right: with the helpers, and from the n images alone.

    Args:
        right: whether the model is right about each measured image.
        helpers: the answers of K helpers to these images.
        means: the mean of each helper over all N images.
        of: N.
        rng: divides the images into folds.
        level: of the intervals.
        minus: whether another model is right: estimate the first model's share less that of this one.

    Raises:
        ValueError: fewer than `FEWEST` images, all N, or no helper whose answers vary.
    """
    known = helpers, means, of, rng
    if minus is None:
        telling = min(int(right.sum()), int((~right).sum()))  # the images of the rarer answer
        return _estimates(right.astype(float), *known, telling, _of_share, level)
    difference = right.astype(float) - minus
    telling = int(np.abs(difference).sum())  # the images that one of the two alone has right
    return _estimates(difference, *known, telling, partial(_of_difference, telling / len(right)), level)


def _of_share(value: float, images: float, level: float) -> Interval:
    return wilson(value * images, images, level)


def _of_difference(measured: float, value: float, images: float, level: float) -> Interval:
    """`measured`: the discordance, which is at least the difference."""
    discordance = max(measured, abs(value))
    gained, lost = (discordance + value) / 2 * images, (discordance - value) / 2 * images
    return paired_difference(gained, lost, images, level)


def distance_of_sample(scores: Shaped[np.ndarray, " N"], measured: Int[np.ndarray, " n"]) -> float:
    """How far the mean score of the measured images is from that of all, in standard errors of a random draw.

    0 if all images have one score.
    """
    n, of = len(measured), len(scores)
    error = scores.std(ddof=1) * np.sqrt((1 - n / of) / n)
    moved = scores[measured].mean() - scores.mean()
    return float(abs(moved) / error) if error > 0 else 0.0


def _estimates(
    y: np.ndarray,
    helpers: np.ndarray,
    means: np.ndarray,
    of: int,
    rng: np.random.Generator,
    telling: int,
    interval_of: _IntervalOf,
    level: float,
) -> tuple[CorrectedEstimate, CorrectedEstimate]:
    n = len(y)
    _check(n, helpers, means, of)
    f, mean_of_f = cross_fitted(y, helpers, means, of, rng)
    # Few telling images do not determine the remaining variance well enough.
    weight = float(np.clip(tuned_weight(y, f), 0, 1)) if telling >= FEWEST_TELLING else 0.0
    # 1 / n allows for one more image that the predictions miss: a near copy of the model may answer an image
    # otherwise, though no such image was seen.
    variance = (y - weight * f).var(ddof=1) + 1 / n
    gain = max(1.0, float(y.var(ddof=1) / variance)) if weight else 1.0
    value = corrected_mean(y, f, mean_of_f, of, weight).value
    value = float(np.clip(value, -1 if y.min() < 0 else 0, 1))
    plain = float(y.mean())
    # Student's t, as the level of a normal quantile: the variance is estimated.
    of_t = 2 * float(scipy.special.ndtr(scipy.special.stdtrit(n - 1, (1 + level) / 2))) - 1
    sizes, alone = _sizes(n, of, gain), _sizes(n, of, 1.0)
    here, beyond = (
        _not_wider(value, interval_of(value, size, of_t), interval_of(plain, own, of_t))._replace(level=level)
        for size, own in zip(sizes, alone)
    )
    of_sample = [interval_of(plain, own, level) for own in alone]
    return (
        CorrectedEstimate(value, here, beyond, gain, weight),
        CorrectedEstimate(plain, of_sample[0], of_sample[1], 1.0, 0.0),
    )


def _sizes(n: int, of: int, gain: float) -> tuple[float, float]:
    """The effective numbers of images: of an estimate for all N, and for the images beyond them."""
    left = (1 - n / of) / (n * gain)
    return 1 / left, 1 / (left + 1 / of)


def _not_wider(value: float, interval: Interval, most: Interval) -> Interval:
    """The interval around the value, drawn together to the width of `most` if it is wider.

    It may be wider where the corrected share is nearer to a half: a measured gain never becomes a loss.
    """
    share = min(1.0, (most.hi - most.lo) / (interval.hi - interval.lo))
    lo, hi = value - share * (value - interval.lo), value + share * (interval.hi - value)
    return Interval(lo, hi, interval.level, f"difference_estimator_{interval.method}_t")


def _ridge(x: Float64[np.ndarray, "m K"], y: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " K"]:
    """Coefficients of a ridge regression with a constant; the penalty by generalised cross-validation."""
    x, y = x - x.mean(axis=0), y - y.mean()
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0)
    products = vectors.T @ (x.T @ y)
    penalised = values + PENALTIES[:, None] * max(values.mean(), 1e-12)
    coefficients = products / penalised
    free = (values / penalised).sum(axis=1) + 1
    residual = y @ y - 2 * coefficients @ products + coefficients**2 @ values
    # As many parameters as images fit anything.
    kept = np.maximum(1 - free / len(y), 1e-3)
    return vectors @ coefficients[np.argmin(residual / kept**2)]


def _check(n: int, helpers: np.ndarray, means: np.ndarray, of: int) -> None:
    if n < FEWEST:
        raise ValueError(f"an estimate needs {FEWEST} measured images or more, there are {n}")
    if n >= of:
        raise ValueError(f"all {of} images are measured: their number is known, not estimated")
    if not helpers.shape[1]:
        raise ValueError("no model can help: measure another one on all images")
    lowest, highest = helpers.min(axis=0), helpers.max(axis=0)
    if np.all((lowest == highest) & np.isclose(lowest, means)):
        raise ValueError("every helper gives one answer to all images, which tells nothing about any of them")
