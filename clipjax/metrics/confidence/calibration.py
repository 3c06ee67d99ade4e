"""Calibration: ECE, MCE, NLL, Brier score, reliability diagram, temperature scaling.

All in float64: the last digits decide a confidence on a bin's edge. Not for use under `jax.jit`.

Sources: Naeini et al. 2015 (ECE, MCE); Guo et al. 2017 (15 equal-width bins (lo, hi]; one temperature, fitted
exactly here, where their LBFGS may stop short); Nixon et al. 2019 (equal-mass bins). Confidence 0 is in the
first bin, as in ImageNet-X's code.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Float64, Int, Int64
from numpy.typing import ArrayLike

from clipjax.metrics.checks import Weights, booleans, check_finite, count_of_each, labels_within, refuse
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval

SPLIT_SEED = 333

Scalar = float | Float[jax.Array, ""]


NO_SMALLEST = "every label has its row's largest logit: NLL falls all the way to T = 0"
NO_LARGEST = "the labels' logits are no larger than average: NLL never rises as T grows"


class NoOptimumError(ValueError):
    """NLL falls, or never rises, all the way to `temperature`, 0 or infinity."""

    def __init__(self, temperature: float, why: str) -> None:
        super().__init__(why)
        self.temperature = temperature


class Scored(NamedTuple):
    """Top probability, whether the top class is the label, -log p(label), Brier score.

    0 and False for an image of weight 0.
    """

    confidence: Float64[np.ndarray, " N"]
    correct: Bool[np.ndarray, " N"]
    nll: Float64[np.ndarray, " N"]
    brier: Float64[np.ndarray, " N"]


def score(
    logits: ArrayLike | jax.Array,
    labels: ArrayLike | jax.Array,
    *,
    temperature: float = 1.0,
    weights: Weights = None,
) -> Scored:
    """Compare softmax(logits / temperature) with the labels int [N].

    Ties go to the lowest class. Brier score: squared distance to the one-hot label, 0 to 2.

    Args:
        logits: [N, K], only the data set's classes.

    Raises:
        ValueError: temperature not above 0, no image counts, a label outside the classes, a non-finite logit.
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature is {temperature}; give a number above 0")
    counts, labels = _checked(logits, labels, weights)
    with jax.enable_x64(True):
        parts = [np.asarray(part) for part in _score(logits, labels, temperature)]
    return Scored(*(np.where(counts > 0, part, part.dtype.type(0)) for part in parts))


def mean(values: ArrayLike | jax.Array, weights: Weights = None) -> float:
    """Raises ValueError if no image counts."""
    array = np.asarray(values, np.float64)
    counts = count_of_each(weights, len(array))
    return float(np.sum(array[counts > 0] * counts[counts > 0]) / counts.sum())


def equal_width_edges(bins: int) -> Float64[np.ndarray, " {bins}+1"]:
    _check_bins(bins)
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass_edges(
    confidence: ArrayLike | jax.Array, bins: int, weights: Weights = None
) -> Float64[np.ndarray, " {bins}+1"]:
    """Edges of bins with equally many images. Equal confidences share a bin, so bins can be empty."""
    _check_bins(bins)
    values, counts = _confidences(confidence, weights)
    ordered = np.sort(np.repeat(values, counts))
    # Inner edge m is the ceil(m N / bins)-th smallest confidence.
    last = -(-np.arange(1, bins) * len(ordered) // bins) - 1
    return np.concatenate([[0.0], ordered[last], [1.0]])


@dataclass(frozen=True)
class Reliability:
    """Sums per bin. Parts of a data set add up; different edges raise ValueError."""

    edges: Float64[np.ndarray, " edges"]
    count: Float64[np.ndarray, " edges-1"]
    confidence: Float64[np.ndarray, " edges-1"]
    correct: Float64[np.ndarray, " edges-1"]

    def __add__(self, other: Reliability) -> Reliability:
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("bins with different edges cannot be added; use the edges of one for both")
        pairs = (
            (self.count, other.count),
            (self.confidence, other.confidence),
            (self.correct, other.correct),
        )
        return Reliability(self.edges, *(a + b for a, b in pairs))


def reliability(
    confidence: ArrayLike | jax.Array,
    correct: ArrayLike | jax.Array,
    edges: Float64[np.ndarray, " edges"],
    *,
    weights: Weights = None,
) -> Reliability:
    """Sums over the images of each right-closed bin.

    Args:
        confidence: [N], 0 to 1, compared in its own precision: 0.2 in float32 is above the edge 0.2.
        edges: ascending.

    Raises:
        ValueError: no image counts, or a confidence is not a probability.
    """
    values, counts = _confidences(confidence, weights)
    correct = booleans("correct", correct)
    if correct.shape != values.shape:
        raise ValueError(
            f"{len(values)} confidences but {len(correct)} of `correct`; give one for each image"
        )
    with jax.enable_x64(True):
        sums = np.asarray(_bin_sums(values, correct, counts, np.asarray(edges, np.float64)[1:-1]))
    return Reliability(edges, sums[:, 0], sums[:, 1], sums[:, 2])


def ece(bins: Reliability) -> float:
    """Mean |accuracy - mean confidence| of the bins, weighted by images."""
    return float(np.sum(np.abs(bins.correct - bins.confidence)) / np.sum(bins.count))


def mce(bins: Reliability) -> float:
    """The largest |accuracy - mean confidence| of a bin with images."""
    held = bins.count > 0
    return float(np.max(np.abs(bins.correct - bins.confidence)[held] / bins.count[held]))


def bin_of(
    confidence: Float[np.ndarray, " N"], edges: Float64[np.ndarray, " edges"]
) -> Int[np.ndarray, " N"]:
    """The right-closed bin, from 0."""
    return np.searchsorted(edges[1:-1], np.asarray(confidence, np.float64))


def bin_columns(
    confidence: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], edges: Float64[np.ndarray, " edges"]
) -> Float64[np.ndarray, "N 3 edges-1"]:
    """What each image adds to its right-closed bin: 1, its confidence, and 1 if correct.

    Weights [R, N] times this: [R, 3, B].
    """
    exact = np.asarray(confidence, np.float64)
    columns = np.zeros((len(exact), 3, len(edges) - 1))
    bin_ = bin_of(exact, edges)
    columns[np.arange(len(exact)), :, bin_] = np.stack([np.ones(len(exact)), exact, correct], axis=1)
    return columns


def ece_of_sums(sums: Float64[np.ndarray, "R 3 B"]) -> Float64[np.ndarray, " R"]:
    """The ECE of each bin's number of images, sum of confidences and number of correct images."""
    return np.abs(sums[:, 2] - sums[:, 1]).sum(axis=1) / sums[:, 0].sum(axis=1)


def mce_of_sums(sums: Float64[np.ndarray, "R 3 B"]) -> Float64[np.ndarray, " R"]:
    """Like `ece_of_sums`, for the largest error; an empty bin has error 0."""
    return (np.abs(sums[:, 2] - sums[:, 1]) / np.maximum(sums[:, 0], 1)).max(axis=1)


def diagram(bins: Reliability) -> dict[str, np.ndarray]:
    """One row per bin with images.

    Columns: lo, hi (bin (lo, hi]), n, mean confidence, accuracy, accuracy_lo and accuracy_hi (Wilson, 95 %),
    gap (accuracy - confidence).
    """
    held = bins.count > 0
    n, hits = bins.count[held].astype(np.int64), bins.correct[held].astype(np.int64)
    confidence, accuracy = bins.confidence[held] / n, hits / n
    limits = [intervals.wilson(int(k), int(of)) for k, of in zip(hits, n)]
    return {
        "lo": bins.edges[:-1][held],
        "hi": bins.edges[1:][held],
        "n": n,
        "confidence": confidence,
        "accuracy": accuracy,
        "accuracy_lo": np.array([limit.lo for limit in limits]),
        "accuracy_hi": np.array([limit.hi for limit in limits]),
        "gap": accuracy - confidence,
    }


def fit_temperature(
    logits: ArrayLike | jax.Array, labels: ArrayLike | jax.Array, *, weights: Weights = None
) -> float:
    """The T > 0 that minimises the mean of -log softmax(logits / T)[label].

    Raises:
        ValueError: as `score`.
        NoOptimumError: every label has its row's largest logit, or the labels' logits are no larger than
            average.
    """
    from scipy.optimize import root_scalar  # loaded late: most runs fit no temperature

    counts, labels = _checked(logits, labels, weights)
    kept = counts > 0
    if not kept.all():
        logits, labels, counts = np.asarray(logits)[kept], labels[kept], counts[kept]
    with jax.enable_x64(True):
        logits = jax.device_put(logits)
        best, own = _best_and_own(logits, labels)

        def slope(sharpness: float) -> float:
            return float(_slope(sharpness, logits, best, own, counts))

        if slope(0.0) >= 0:  # first: of equal logits each is the largest, and NLL is flat
            raise NoOptimumError(np.inf, NO_LARGEST)
        if not np.any(np.asarray(own) < np.asarray(best)):
            raise NoOptimumError(0.0, NO_SMALLEST)
        # NLL is convex in 1 / T: its slope has one root. Bracketed by doubling, so no bound can bind.
        hi = 1.0
        while slope(hi) < 0:
            hi *= 2
        lo = hi / 2
        while slope(lo) > 0:
            lo /= 2
        root = root_scalar(slope, bracket=(lo, hi), method="brentq", xtol=1e-14 * lo).root
    return 1 / root


def temperature_error(
    logits: ArrayLike | jax.Array, labels: ArrayLike | jax.Array, temperature: float
) -> float:
    """Standard error of log T: the sandwich formula (Huber 1967). The model need not be calibrated."""
    _, labels = _checked(logits, labels, None)
    with jax.enable_x64(True):
        slope, curvature = (np.asarray(part) for part in _slopes(logits, labels, temperature))
    # The error of b = 1 / T is sqrt(sum slope^2) / sum curvature; divided by b it is that of log T.
    return float(temperature * np.sqrt(np.sum(slope**2)) / np.sum(curvature))


def temperature_interval(temperature: float, error: float, level: float = LEVEL) -> Interval:
    """The interval of a temperature T, symmetric in log T, whose standard error is `error`."""
    half = scipy.special.ndtri((1 + level) / 2) * error
    return Interval(
        temperature * float(np.exp(-half)), temperature * float(np.exp(half)), level, "sandwich_log"
    )


def half_split(names: Sequence[str]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """Rows of the calibration half and of the test half.

    Images are sorted by file name without folders (equal names by folder), then shuffled by
    RandomState(333).permutation; the first half, with an odd image, calibrates. Equals
    `train_test_split(test_size=0.5, random_state=333)` in Adaptive-Calibrators-Ensemble, whose second return
    value calibrates.

    Raises:
        ValueError: fewer than two images, or two with one name.
    """
    ordered = sorted((posixpath.basename(name), name, row) for row, name in enumerate(names))
    order = np.array([row for _, _, row in ordered], np.int64)
    if len(order) < 2:
        raise ValueError(f"there are {len(order)} images; a split needs two or more")
    same = [name for (_, name, _), (_, other, _) in itertools.pairwise(ordered) if name == other]
    if same:
        raise ValueError(f"two images are called {same[0]!r}; the split needs unique names")
    dealt = order[np.random.RandomState(SPLIT_SEED).permutation(len(order))]
    half = (len(order) + 1) // 2
    return dealt[:half], dealt[half:]


@jax.jit
def _score(
    logits: Float[jax.Array, "N K"], labels: Int[jax.Array, " N"], temperature: Scalar
) -> tuple[jax.Array, ...]:
    def one(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        z, label = row
        scaled = z.astype(jnp.float64) / temperature
        below = scaled - jnp.max(scaled)
        share = jnp.exp(below)
        total = jnp.sum(share)
        brier = jnp.sum(share * share) / total**2 - 2 * share[label] / total + 1
        right = jnp.argmax(z).astype(jnp.int32) == label
        return 1 / total, right, jnp.log(total) - below[label], brier

    # In blocks: a float64 copy of all logits would take twice their memory.
    return jax.lax.map(one, (logits, labels), batch_size=256)


@jax.jit
def _slopes(
    logits: Float[jax.Array, "N K"], labels: Int[jax.Array, " N"], temperature: Scalar
) -> tuple[Float64[jax.Array, " N"], Float64[jax.Array, " N"]]:
    """Slope E_p[z] - z[label] and curvature Var_p[z] of each image's NLL in 1 / T."""

    def one(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        z = row[0].astype(jnp.float64)
        share = jax.nn.softmax(z / temperature)
        mean = jnp.sum(share * z)
        return mean - z[row[1]], jnp.sum(share * (z - mean) ** 2)

    return jax.lax.map(one, (logits, labels), batch_size=256)


@jax.jit
def _bin_sums(
    confidence: Float[jax.Array, " N"],
    correct: Bool[jax.Array, " N"],
    counts: Int[jax.Array, " N"],
    inner: Float64[jax.Array, " inner"],
) -> Float64[jax.Array, "inner+1 3"]:
    """Columns: images, summed confidence, correct images."""
    exact, weight = confidence.astype(jnp.float64), counts.astype(jnp.float64)
    bin_ = jnp.sum(exact[:, None] > inner, axis=1)
    values = jnp.stack([weight, weight * exact, weight * correct.astype(jnp.float64)], axis=1)
    return jnp.zeros((inner.shape[0] + 1, 3), jnp.float64).at[bin_].add(values)


@jax.jit
def _best_and_own(
    logits: Float[jax.Array, "N K"], labels: Int[jax.Array, " N"]
) -> tuple[Float64[jax.Array, " N"], Float64[jax.Array, " N"]]:
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.max(logits, axis=1).astype(jnp.float64), own.astype(jnp.float64)


def _mean_nll(
    sharpness: jax.Array, logits: jax.Array, best: jax.Array, own: jax.Array, counts: jax.Array
) -> jax.Array:
    # sharpness is 1 / T.
    shares = jnp.exp(sharpness * (logits.astype(jnp.float64) - best[:, None]))
    nll = jnp.log(jnp.sum(shares, axis=1)) + sharpness * (best - own)
    weight = counts.astype(jnp.float64)
    return jnp.sum(nll * weight) / jnp.sum(weight)


_slope = jax.jit(jax.grad(_mean_nll))


def _checked(
    logits: ArrayLike | jax.Array, labels: ArrayLike | jax.Array, weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    n, num_classes = np.shape(logits)
    counts = count_of_each(weights, n)
    with jax.enable_x64(True):
        check_finite("logits", logits, counts)
    return counts, labels_within("label", labels, counts, num_classes)


def _confidences(confidence: ArrayLike | jax.Array, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(confidence)
    counts = count_of_each(weights, len(values))
    refuse(
        (counts > 0) & ~((values >= 0) & (values <= 1)), "its confidence is not a probability between 0 and 1"
    )
    return np.where(counts > 0, values, values.dtype.type(0)), counts


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"{bins} bins; give one or more")
