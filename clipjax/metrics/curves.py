"""ROC and precision-recall curves as integer counts. Definitions are scikit-learn's.

A curve has one point per distinct score of the positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64

RECALL = 0.95

Tally = Int[np.ndarray | jax.Array, " N"]


@dataclass(frozen=True, eq=False)
class Counts:
    """Cumulative counts at the K distinct scores of the positives, most positive first, for B resamples.

    Attributes:
        tp: positives at or above the score; the last is their total.
        before: negatives above the score.
        fp: negatives at or above the score.

    Positives 3 1 and negatives 2 1 give, at the scores 3 and 1:
        tp 1 2,   before 0 1,   fp 0 2,   negatives 2
    """

    tp: Int[np.ndarray, "#B K"]
    before: Int[np.ndarray, "#B K"]
    fp: Int[np.ndarray, "#B K"]
    negatives: Int64[np.ndarray, " #B"]

    @cached_property
    def gain(self) -> Int[np.ndarray, "_ K"]:
        """Positives at each distinct score."""
        gain = self.tp.copy()
        gain[:, 1:] -= self.tp[:, :-1]
        return gain

    @cached_property
    def precision(self) -> Float64[np.ndarray, "B K"]:
        seen = self.tp + self.fp
        # A resample may have no image at the top scores; gain is 0 there, so any precision will do.
        return self.tp / np.maximum(seen, 1, out=seen)


# Measures: a number for each resample.


def area_under_roc(counts: Counts) -> Float64[np.ndarray, " B"]:
    """The area under the ROC curve in each resample. Ties count one half."""
    twice = counts.gain * (2 * counts.negatives[:, None] - counts.before - counts.fp)
    return twice.sum(axis=1) / (2 * counts.tp[:, -1] * counts.negatives)


def average_precision(counts: Counts) -> Float64[np.ndarray, " B"]:
    """Mean precision at the positives' scores: the area under steps."""
    return (counts.gain * counts.precision).sum(axis=1) / counts.tp[:, -1]


def trapezoidal_precision(counts: Counts) -> Float64[np.ndarray, " B"]:
    """Area under straight lines of the precision-recall curve, from (0, 1)."""
    above = counts.tp - counts.gain
    passed = above + counts.before
    start = passed == 0
    previous = above / np.maximum(passed, 1, out=passed)
    previous[start] = 1.0
    previous += counts.precision
    previous *= counts.gain
    return previous.sum(axis=1) / (2 * counts.tp[:, -1])


def fpr_first(counts: Counts) -> Float64[np.ndarray, " B"]:
    """The false-positive rate at the highest threshold whose recall reaches 0.95."""
    return _at(counts.fp, _reached(counts.tp)) / counts.negatives


def fpr_closest(counts: Counts) -> Float64[np.ndarray, " B"]:
    """The false-positive rate at the recall closest to 0.95; of two equally close, the higher.

    The lowest threshold with that recall; at recall 1 the highest.
    """
    tp = counts.tp
    total, reached = tp[:, -1], _reached(tp)
    higher, lower = _at(tp, reached), np.where(reached > 0, _at(tp, np.maximum(reached - 1, 0)), 0)
    # Distances are compared in float64, as in the reference.
    nearer = np.abs(lower / total - RECALL) < np.abs(higher / total - RECALL)
    recall = np.where(nearer, lower, higher)
    # The lowest threshold is just above the next positive.
    following = np.minimum(_places(tp, recall, "right"), tp.shape[1] - 1)
    at_recall = np.where(recall == total, _at(counts.fp, reached), _at(counts.before, following))
    return at_recall / counts.negatives


def _reached(tp: np.ndarray) -> np.ndarray:
    """The first column with recall >= 0.95, in float64."""
    total = tp[:, -1].astype(np.int64)
    wanted = np.floor(RECALL * total).astype(np.int64) - 1
    for _ in range(3):  # rounding: the smallest such count is at most three higher
        wanted += wanted / total < RECALL
    return _places(tp, wanted, "left")


def _places(rows: np.ndarray, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """int64 [B], as by searchsorted."""
    return np.array([row.searchsorted(value, side) for row, value in zip(rows, values.astype(rows.dtype))])


def _at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.take_along_axis(rows, columns[:, None], axis=1)[:, 0]


# Counting on devices.


@jax.jit
def tally(
    scores: Float[jax.Array, " N"], others: Float[jax.Array, " M"], mask: Bool[jax.Array, " M"]
) -> tuple[Int32[jax.Array, " N"], Int32[jax.Array, " N"]]:
    """Count the `others` above each score, and those equal to it.

    Tallies of shards of `others` add up; those of shards of `scores` concatenate.

    Args:
        scores: finite, read as float32.
        others: finite, read as float32.
        mask: False for padding.
    """
    padding = jnp.iinfo(jnp.int32).max
    ranked = jnp.sort(jnp.where(mask, _ordered(others), padding))
    keys = _ordered(scores)
    right = jnp.searchsorted(ranked, keys, side="right").astype(jnp.int32)
    left = jnp.searchsorted(ranked, keys).astype(jnp.int32)
    return jnp.sum(mask, dtype=jnp.int32) - right, right - left


def _ordered(scores: jax.Array) -> jax.Array:
    """Integers in the order of the floats: XLA compares denormal floats as zero."""
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    positive_zero = jnp.where(bits == jnp.iinfo(jnp.int32).min, 0, bits)
    return jnp.where(positive_zero < 0, positive_zero ^ jnp.iinfo(jnp.int32).max, positive_zero)


def tallied(
    among: tuple[Tally, Tally], against: tuple[Tally, Tally], mask: Bool[np.ndarray, " N"], total: int
) -> Counts:
    """`Counts` from tallies (of negated scores if OOD is positive).

    Args:
        among: tallies of the positives' scores among themselves.
        against: tallies of the positives' scores against all negatives.
        mask: False where a positive is padding.
        total: negatives.
    """
    above, ties, over, level = (np.asarray(part)[mask].astype(np.int64) for part in (*among, *against))
    tp, first = np.unique(above + ties, return_index=True)
    return Counts(tp[None], over[first][None], (over + level)[first][None], np.array([total]))
