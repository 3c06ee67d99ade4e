"""Visual factors (ImageNet-X): accuracy per factor, error ratios, worst factor, worst classes.

As in `imagenet_x/aggregate.py` (Idrissi et al. 2022). Tied worst classes: lowest index first; the reference's
sort is unstable.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64, Int, Int32
from numpy.typing import ArrayLike

from clipjax.metrics.checks import Weights, booleans, count_of_each, refuse


@dataclass(frozen=True)
class FactorCounts:
    """Correct images (`hits`) and all images. Parts of a data set add up."""

    hits: Int[np.ndarray, " F"]
    total: Int[np.ndarray, " F"]
    hits_all: int
    total_all: int

    def __add__(self, other: FactorCounts) -> FactorCounts:
        return FactorCounts(
            self.hits + other.hits,
            self.total + other.total,
            self.hits_all + other.hits_all,
            self.total_all + other.total_all,
        )

    @property
    def accuracy(self) -> Float64[np.ndarray, " F"]:
        """NaN without images."""
        return _ratio(self.hits, self.total)

    @property
    def average(self) -> float:
        """The accuracy over all annotated images, each once: not a mean over factors."""
        return self.hits_all / self.total_all

    @property
    def error_ratio(self) -> Float64[np.ndarray, " F"]:
        """A factor's error over the average error; NaN without images or any error."""
        return _ratio(1 - self.accuracy, np.full(len(self.total), 1 - self.average))

    def worst(self, among: ArrayLike = True) -> int:
        """Column of the lowest accuracy, the first of equals; `among`: bool [F].

        Raises:
            ValueError: no such factor has an image.
        """
        mask = np.asarray(among) & (self.total > 0)
        if not mask.any():
            raise ValueError("no image has any of the factors, so none is the worst")
        return int(np.argmin(np.where(mask, self.accuracy, np.inf)))


def count_factors(
    correct: ArrayLike | jax.Array, factors: ArrayLike | jax.Array, *, weights: Weights = None
) -> FactorCounts:
    """Count the images, and the right ones, of each factor.

    Args:
        correct: bool [N].
        factors: [N, F] of bools, 0 or 1: whether an image has a factor.
        weights: int [N], how often each image counts; None: once.

    Raises:
        ValueError: no image counts, or a factor is neither 0 nor 1.
    """
    correct = booleans("correct", correct)
    marks = np.asarray(factors)
    counts = count_of_each(weights, len(correct))
    if marks.ndim != 2 or len(marks) != len(correct):
        raise ValueError(f"factors have shape {marks.shape}; give one row for each of {len(correct)} images")
    wrong = np.any((marks != 0) & (marks != 1), axis=1)
    refuse((counts > 0) & wrong, "a factor is neither 0 nor 1")
    # The last sums are those of all images, with any factor or none.
    hits, total = (np.asarray(part) for part in _sums(correct, marks == 1, counts))
    return FactorCounts(hits[:-1], total[:-1], int(hits[-1]), int(total[-1]))


def correct_through(
    predicted: ArrayLike | jax.Array, labels: ArrayLike | jax.Array, group: ArrayLike
) -> Bool[np.ndarray, " N"]:
    """Whether prediction and label are in one group of classes (metaclass).

    Args:
        predicted: int [N], 0..K-1.
        labels: int [N], 0..K-1.
        group: int [K].

    Raises:
        ValueError: a class is outside 0..K-1.
    """
    of_class, pairs = np.asarray(group), (np.asarray(predicted), np.asarray(labels))
    for name, classes in zip(("predicted class", "label"), pairs):
        refuse((classes < 0) | (classes >= len(of_class)), f"its {name} is outside 0..{len(of_class) - 1}")
    return of_class[pairs[0]] == of_class[pairs[1]]


def correct_among(predicted: ArrayLike | jax.Array, accepted: ArrayLike) -> Bool[np.ndarray, " N"]:
    """Whether the prediction is an accepted label of the image (ReaL).

    Args:
        predicted: int [N].
        accepted: int [N, L], filled up with -1. Without accepted labels an image is wrong, as in the
            reference.

    Raises:
        ValueError: a prediction is below 0.
    """
    classes = np.asarray(predicted)
    refuse(classes < 0, "its predicted class is below 0")  # it would match the filling
    return np.any(classes[:, None] == np.asarray(accepted), axis=1)


def worst_classes(
    hits: Int[np.ndarray, " K"], total: Int[np.ndarray, " K"], k: int
) -> tuple[Int[np.ndarray, " worst"], float]:
    """The k classes of lowest accuracy, worst first, and the accuracy over their images.

    Fewer if fewer have images.

    Raises:
        ValueError: k < 1, or no class has an image.
    """
    seen = np.flatnonzero(total)
    if k < 1 or not len(seen):
        raise ValueError(f"{k} worst of {len(seen)} classes with images; ask for one or more of one or more")
    worst = seen[np.argsort(hits[seen] / total[seen], kind="stable")][:k]
    return worst, float(hits[worst].sum() / total[worst].sum())


@jax.jit
def _sums(
    correct: Bool[jax.Array, " N"], factors: Bool[jax.Array, "N F"], counts: Int[jax.Array, " N"]
) -> tuple[Int32[jax.Array, " F+1"], Int32[jax.Array, " F+1"]]:
    """Last column: overall."""
    everyone = jnp.ones((correct.shape[0], 1), bool)
    weighted = jnp.concatenate([factors, everyone], axis=1).astype(jnp.int32) * counts[:, None]
    return jnp.sum(jnp.where(correct[:, None], weighted, 0), axis=0), jnp.sum(weighted, axis=0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole != 0)
