"""Tip-Adapter: a cache of labelled features beside a classifier, and the search for its weights.

Source: Zhang et al. 2022 (arXiv 2207.09519), equations 4 and 5, and gaopengcuhk/Tip-Adapter (`utils.py`,
search_hp):

    logits = zero-shot logits + alpha * sum over the keys of a class of exp(-beta (1 - feature @ key))

One product with the keys serves all pairs of alpha and beta, none skipped or interpolated.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Int64, Real

from clipjax.metrics.checks import refuse

_BLOCK = 2**22  # distances between images and keys held at once
_MOST_IMAGES = 64  # in a block
_UNROLL = 16  # keys of a class added in one loop


def affinities(
    features: Float[Array, "B D"],
    keys: Float[Array | np.ndarray, "D N"],
    values: Int[np.ndarray, " N"],
    beta: float,
    *,
    num_classes: int,
) -> Float[Array, "B {num_classes}"]:
    """Sum over each class's keys of exp(-beta (1 - feature @ key)); differentiable.

    Args:
        features: unit norm.
        values: each key's class, known at trace time. Sorted, equally many per class need no scatter.
    """
    terms = jnp.exp(-np.float32(beta) * (1 - jnp.matmul(features, keys, precision="highest")))
    shots = len(values) // num_classes
    if np.array_equal(values, np.repeat(np.arange(num_classes), shots)):
        return terms.reshape(len(features), num_classes, shots).sum(axis=2)
    return jax.ops.segment_sum(terms.T, jnp.asarray(values), num_classes).T


def count_correct(
    blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    keys: Float[Array | np.ndarray, "D N"],
    values: Int[np.ndarray, " N"],
    betas: Real[np.ndarray, " I"],
    alphas: Real[np.ndarray, " J"],
) -> Int64[np.ndarray, "I J"]:
    """Count the images that each pair of beta and alpha classifies correctly. Ties go to the first class.

    Args:
        blocks: features float32 [n, D] of unit norm, logits without the cache float32 [n, K], labels int [n]
            (-1 is padding).
        betas: fastest if evenly spaced.

    Raises:
        ValueError: a class is not among the K.
    """
    betas, alphas = np.asarray(betas, np.float64), np.asarray(alphas, np.float32)
    coarse, fine = _summands(betas)
    total, cache = np.zeros((len(betas), len(alphas)), np.int64), None
    for features, logits, labels in blocks:
        classes = logits.shape[1]
        if cache is None:
            refuse((values < 0) | (values >= classes), f"the key's class is not among the {classes}")
            cache = _by_slot(np.asarray(keys, np.float32), values, classes)
        refuse(np.asarray(labels) >= classes, f"the label is not among the {classes} classes")
        size = int(np.clip(_BLOCK // cache[1].size, 1, _MOST_IMAGES))
        # One image's numbers fit into a CPU's cache; an accelerator needs many at once.
        rows = 1 if jax.default_backend() == "cpu" else size
        counts = [
            _count(*part, *cache, coarse, fine, alphas, rows=rows)
            for part in _parts((features, logits, labels), size)
        ]
        total += np.sum([np.asarray(each, np.int64) for each in counts], axis=0)[: len(betas)]
    return total


def _summands(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split betas into sums: beta i is coarse[i // C] + fine[i % C]; coarse float32 [I'], fine float32 [C].

    E.g. betas 1 2 3 4 -> coarse 1 3, fine 0 1.
    """
    for count in (round(len(betas) ** 0.5), 1):
        coarse, fine = betas[::count], betas[:count] - betas[0]
        sums = (coarse[:, None] + fine).ravel()[: len(betas)]
        if np.allclose(sums, betas, rtol=1e-9, atol=0):
            break
    return coarse.astype(np.float32), fine.astype(np.float32)


def _by_slot(keys: np.ndarray, values: np.ndarray, classes: int) -> tuple[Array, Array]:
    """Keys by number within their class, float32 [D, S, K], and which exist, bool [S, K]."""
    order = np.argsort(values, kind="stable")
    count = np.bincount(values, minlength=classes)
    # Values in order 0, 0, 2, 2, 2: the classes begin at 0, 2 and 2, and the slots are 0, 1, 0, 1, 2.
    slot = np.arange(len(values)) - np.repeat(np.cumsum(count) - count, count)
    by_slot = np.zeros((len(keys), count.max(initial=1), classes), np.float32)
    by_slot[:, slot, values[order]] = keys[:, order]
    return jnp.asarray(by_slot), jnp.asarray(np.arange(by_slot.shape[1])[:, None] < count)


def _parts(block: tuple[np.ndarray, ...], size: int) -> Iterable[tuple[Array, Array, Array]]:
    """Pieces of `size` images; label -1 pads the last."""
    features, logits, labels = block
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        pad = (0, max(0, start + size - len(labels)))
        # By NumPy: JAX compiles a program for each shape.
        yield jax.device_put(
            (
                np.pad(np.asarray(features[part], np.float32), (pad, (0, 0))),
                np.pad(np.asarray(logits[part], np.float32), (pad, (0, 0))),
                np.pad(np.asarray(labels[part], np.int32), pad, constant_values=-1),
            )
        )


@functools.partial(jax.jit, static_argnames="rows")
def _count(
    features: Array,
    logits: Array,
    labels: Array,
    keys: Array,
    present: Array,
    coarse: Array,
    fine: Array,
    alphas: Array,
    *,
    rows: int,
) -> Array:
    """int32 [betas, alphas]; extra betas complete the last coarse one."""
    (slots, classes), images = present.shape, len(features)
    flat = keys.reshape(len(keys), slots * classes)
    distance = 1 - jnp.matmul(features, flat, precision="highest")
    distance = distance.reshape(images // rows, rows, slots, classes).swapaxes(1, 2)

    def add(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        distance, logits, labels = part
        sums = _class_sums(distance, present, coarse, fine)
        own = jnp.take_along_axis(sums, labels[None, None, :, None], axis=3)
        wins = jax.lax.map(lambda each: _wins(each[0], each[1], logits, labels, alphas), (sums, own))
        return total + wins.reshape(total.shape), None

    pieces = (distance, logits.reshape(-1, rows, classes), labels.reshape(-1, rows))
    total = jnp.zeros((len(coarse) * len(fine), len(alphas)), jnp.int32)
    return jax.lax.scan(add, total, pieces)[0]


def _class_sums(distance: Array, present: Array, coarse: Array, fine: Array) -> Array:
    """exp(-(coarse + fine) distance) over a class's keys: [S, r, K] -> [coarse, fine, r, K]."""
    there = present[:, None]
    # exp(-(b + c) d) = exp(-b d) exp(-c d): 200 evenly spaced betas need 29 exponentials per distance.
    # The loops make XLA store the exponentials; fused, it would recompute them.
    slow = jax.lax.map(lambda beta: jnp.where(there, jnp.exp(-beta * distance), 0), coarse)
    fast = jax.lax.map(lambda one: jnp.exp(-fine[:, None, None] * one), distance)

    def total(slow: Array) -> Array:
        def add(total: Array, slot: tuple[Array, Array]) -> tuple[Array, None]:
            return total + slot[0] * slot[1], None

        return jax.lax.scan(add, jnp.zeros_like(fast[0]), (slow, fast), unroll=_UNROLL)[0]

    return jax.lax.map(total, slow)


def _wins(sums: Array, own: Array, logits: Array, labels: Array, alphas: Array) -> Array:
    """Count the labels with the largest of logits + alpha * sums, int32 [C, J].

    sums: [C, r, K]; own: [C, r, 1], of the labels' classes; logits: [r, K]; labels: [r].
    """
    # Logits are linear in alpha, so the label's class y wins on one interval of alphas. Class k does not beat
    # it while alpha * (sums_k - sums_y) <= logits_y - logits_k (< for k before y, which wins ties). Divided
    # by the difference of sums, this bounds alpha from above if that is positive, from below if negative;
    # at zero alpha has no effect.
    before = jnp.arange(logits.shape[1]) < labels[:, None]
    lead = jnp.take_along_axis(logits, labels[:, None], axis=1) - logits
    gain = sums - own
    bound = lead / gain
    above, below = jnp.where(gain > 0, bound, jnp.inf), jnp.where(gain < 0, bound, -jnp.inf)
    lost = (gain == 0) & ((lead < 0) | (before & (lead == 0)))
    alphas = alphas[:, None, None]  # [J, 1, 1] against bounds [C, r]
    wins = (alphas <= above.min(axis=2)) & (alphas >= below.max(axis=2)) & ~lost.any(axis=2)
    wins &= alphas < jnp.where(before, above, jnp.inf).min(axis=2)
    wins &= alphas > jnp.where(before, below, -jnp.inf).max(axis=2)
    return (wins & (labels >= 0)).sum(axis=2, dtype=jnp.int32).T
