"""Shape bias: does a model decide by an object's shape or its texture, where they disagree?

Geirhos et al. 2019: among images whose shape and texture differ in category, S decisions follow the shape and
T the texture; the bias is S / (S + T). Categories and decisions are indices; -1
is "no decision".

The category whose classes have the largest mean probability wins, as in `modelvshuman`; a sum would favour
the 109 kinds of dog. Ties go to the first.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32
from numpy.typing import ArrayLike

from clipjax.metrics.checks import Weights, check_finite, count_of_each, labels_within
from clipjax.metrics.classification import group_mean, softmax
from clipjax.metrics.uncertainty.intervals import Interval, wilson


class Bias(NamedTuple):
    """Wilson's interval, and n = S + T. Value and interval are None if n = 0."""

    value: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class CueCounts:
    """Decisions by the shape's category, for shape and texture; `conflict`: all images whose cues differ.

    Parts of a data set add up.
    """

    shape: Int[np.ndarray, " C"]
    texture: Int[np.ndarray, " C"]
    conflict: Int[np.ndarray, " C"]

    def __add__(self, other: CueCounts) -> CueCounts:
        return CueCounts(
            self.shape + other.shape, self.texture + other.texture, self.conflict + other.conflict
        )

    @property
    def overall(self) -> Bias:
        """The shape bias over all images, not the mean of the categories."""
        return _bias(int(self.shape.sum()), int(self.texture.sum()))

    @property
    def by_category(self) -> list[Bias]:
        return [_bias(int(s), int(t)) for s, t in zip(self.shape, self.texture)]


def decide(
    logits: ArrayLike | jax.Array,
    columns: ArrayLike,
    category: ArrayLike,
    *,
    num_categories: int,
    weights: Weights = None,
) -> Int32[np.ndarray, " N"]:
    """The category of largest mean probability; -1 for an image of weight 0.

    Args:
        logits: [N, K], at the model's own scale, which affects a mean of probabilities.
        columns: int [P], classes.
        category: int [P]; class `columns[p]` belongs to `category[p]`. No category is empty.

    Raises:
        ValueError: no image counts, or a logit is not finite.
    """
    counts = count_of_each(weights, np.shape(logits)[0])
    check_finite("logits", logits, counts)
    classes = (np.asarray(part, np.int32) for part in (columns, category))
    return np.where(counts > 0, _decide(logits, *classes, num_categories=num_categories), -1)


def count_cues(
    decision: ArrayLike | jax.Array,
    shape: ArrayLike | jax.Array,
    texture: ArrayLike | jax.Array,
    *,
    num_categories: int,
    weights: Weights = None,
) -> CueCounts:
    """Count decisions for the shape and for the texture of images.

    Args:
        decision: int [N], the category decided for; -1 for none.
        shape: int [N], the category of the shape.
        texture: int [N], the category of the texture.
        weights: int [N], how often each image counts; None: once.

    Raises:
        ValueError: no image counts, or a value is not a category.
    """
    counts = count_of_each(weights, len(np.asarray(shape)))
    decided = labels_within("decision", decision, counts, num_categories, lowest=-1)
    cues = (
        labels_within(name, cue, counts, num_categories)
        for name, cue in (("shape", shape), ("texture", texture))
    )
    return CueCounts(*np.asarray(_sums(decided, *cues, counts, num_categories=num_categories)))


@functools.partial(jax.jit, static_argnames="num_categories")
def _decide(
    logits: Float[jax.Array, "N K"],
    columns: Int[jax.Array, " P"],
    category: Int[jax.Array, " P"],
    *,
    num_categories: int,
) -> Int32[jax.Array, " N"]:
    # Over the categories' classes only: the decision is as over all K, but a large logit elsewhere cannot
    # make all means underflow to a tie.
    probabilities = softmax(logits[:, columns])
    means = group_mean(probabilities, jnp.arange(columns.size), category, num_groups=num_categories)
    return jnp.argmax(means, axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames="num_categories")
def _sums(
    decision: Int[jax.Array, " N"],
    shape: Int[jax.Array, " N"],
    texture: Int[jax.Array, " N"],
    counts: Int[jax.Array, " N"],
    *,
    num_categories: int,
) -> Int32[jax.Array, "3 {num_categories}"]:
    """Sums by shape: images decided for the shape, for the texture, and all in conflict."""
    weight = jnp.where(shape != texture, counts, 0)
    values = jnp.stack([weight * (decision == cue).astype(jnp.int32) for cue in (shape, texture)] + [weight])
    return jnp.zeros((3, num_categories), jnp.int32).at[:, shape].add(values)


def _bias(for_shape: int, for_texture: int) -> Bias:
    n = for_shape + for_texture
    return Bias(for_shape / n, wilson(for_shape, n), n) if n else Bias(None, None, 0)
