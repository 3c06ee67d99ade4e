"""Classification metrics: jitted kernels on float32 scores (float64 under `jax.enable_x64`).

Labels are column indices. Ties go to the lowest index, so two classes of one name behave as in the reference.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Num

Either = jax.Array | np.ndarray


@functools.partial(jax.jit, static_argnames="k")
def top_k(scores: Num[jax.Array, "N K"], *, k: int) -> Int32[jax.Array, "N {k}"]:
    """The k classes with the largest scores, the best first; k <= K. Ties go to the first class."""
    scores = jnp.where(scores == 0, jnp.zeros_like(scores), scores)  # XLA sorts -0 below 0, but they tie
    return jax.lax.top_k(scores, k)[1]


@jax.jit
def in_top_k(ranked: Int[jax.Array, "N k"], labels: Int[jax.Array, " N"]) -> Bool[jax.Array, " N"]:
    return jnp.any(ranked == labels[:, None], axis=1)


def is_tied(scores: Num[Either, "N K"]) -> Bool[Either, " N"]:
    """Whether several columns share a row's largest score. NumPy's arrays compile nothing."""
    if not isinstance(scores, np.ndarray):
        return _is_tied(scores)
    return np.sum(scores == np.max(scores, axis=1, keepdims=True), axis=1) > 1


@jax.jit
def _is_tied(scores: Num[jax.Array, "N K"]) -> Bool[jax.Array, " N"]:
    return jnp.sum(scores == jnp.max(scores, axis=1, keepdims=True), axis=1) > 1


def class_counts(
    labels: Int[Either, " N"], correct: Bool[Either, " N"], *, num_classes: int
) -> tuple[Int32[Either, " {num_classes}"], Int32[Either, " {num_classes}"]]:
    """Correct and all images; labels outside 0..num_classes-1 (-1 is padding) do not count.

    NumPy's arrays compile nothing.
    """
    if not (isinstance(labels, np.ndarray) and isinstance(correct, np.ndarray)):
        return _class_counts(labels, correct, num_classes=num_classes)
    inside = (labels >= 0) & (labels < num_classes)
    total, hits = (
        np.bincount(labels[mask], minlength=num_classes).astype(np.int32)
        for mask in (inside, inside & correct)
    )
    return hits, total


@functools.partial(jax.jit, static_argnames="num_classes")
def _class_counts(
    labels: Int[jax.Array, " N"], correct: Bool[jax.Array, " N"], *, num_classes: int
) -> tuple[Int32[jax.Array, " {num_classes}"], Int32[jax.Array, " {num_classes}"]]:
    inside = (labels >= 0) & (labels < num_classes)
    column = jnp.where(inside, labels, num_classes)
    total = jnp.zeros(num_classes + 1, jnp.int32).at[column].add(1)
    hits = jnp.zeros(num_classes + 1, jnp.int32).at[column].add(correct.astype(jnp.int32))
    return hits[:num_classes], total[:num_classes]


@jax.jit
def softmax(logits: Float[jax.Array, "N K"]) -> Float[jax.Array, "N K"]:
    """Probabilities of the classes, float64 from float64 logits, else float32."""
    kept = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return jax.nn.softmax(logits.astype(kept), axis=1)


@jax.jit
def take_classes(scores: Num[jax.Array, "N K"], columns: Int[jax.Array, " M"]) -> Num[jax.Array, "N M"]:
    return scores[:, columns]


@functools.partial(jax.jit, static_argnames="num_groups")
def group_mean(
    scores: Float[jax.Array, "N K"],
    columns: Int[jax.Array, " P"],
    group: Int[jax.Array, " P"],
    *,
    num_groups: int,
) -> Float[jax.Array, "N {num_groups}"]:
    """Mean score of each group: column `columns[p]` belongs to `group[p]`.

    A column may be in several groups or none; no group is empty.
    """
    size = jnp.zeros(num_groups, scores.dtype).at[group].add(1)
    total = jnp.zeros((scores.shape[0], num_groups), scores.dtype).at[:, group].add(scores[:, columns])
    return total / size


@functools.partial(jax.jit, static_argnames="num_groups")
def group_max(
    scores: Float[jax.Array, "N K"],
    columns: Int[jax.Array, " P"],
    group: Int[jax.Array, " P"],
    *,
    num_groups: int,
) -> Float[jax.Array, "N {num_groups}"]:
    """Like `group_mean`, with the largest score in place of the mean."""
    best = jnp.full((scores.shape[0], num_groups), -jnp.inf, scores.dtype)
    return best.at[:, group].max(scores[:, columns])
