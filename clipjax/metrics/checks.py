"""Checks shared by the metrics: a ValueError names the row and its fault.

`weights`: a mask excludes padding; whole numbers count a bootstrap's draws; None: all ones. Images of weight
0 are not checked.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32, Shaped
from numpy.typing import ArrayLike

Weights = ArrayLike | jax.Array | None


def count_of_each(weights: Weights, n: int) -> Int32[np.ndarray, " {n}"]:
    """Raises ValueError unless the weights are n whole numbers >= 0, not all 0."""
    counts = np.ones(n, np.int32) if weights is None else np.asarray(weights)
    if counts.shape != (n,):
        raise ValueError(f"weights have shape {counts.shape}, but there are {n} images; give one for each")
    if counts.dtype.kind not in "biu":
        raise ValueError(f"weights are {counts.dtype}; give bools or whole numbers")
    refuse(counts < 0, "its weight is negative; give 0 or more")
    if not counts.any():
        raise ValueError("no image counts: there is none, or all have weight 0")
    return counts.astype(np.int32)


def booleans(name: str, values: ArrayLike | jax.Array) -> Bool[np.ndarray, " ..."]:
    """Raises ValueError for another dtype: a probability would pass as True."""
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise ValueError(f"{name} is {array.dtype}; give bools")
    return array


def labels_within(
    name: str,
    labels: ArrayLike | jax.Array,
    counts: Int32[np.ndarray, " N"],
    num_classes: int,
    *,
    lowest: int = 0,
) -> Int32[np.ndarray, " N"]:
    """The labels, 0 where an image does not count.

    Raises:
        ValueError: not one whole number per image, or a counted one is outside lowest..num_classes-1.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != counts.shape:
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}; give one whole number for each of {len(counts)} images"
        )
    outside = (array < lowest) | (array >= num_classes)
    refuse((counts > 0) & outside, f"its {name} is outside {lowest}..{num_classes - 1}")
    return np.where(counts > 0, array, 0).astype(np.int32)


def check_finite(name: str, values: ArrayLike | jax.Array, counts: Int32[np.ndarray, " N"]) -> None:
    """Raises ValueError naming the first counted row with NaN or infinity."""
    refuse((counts > 0) & ~np.asarray(_finite(values)), f"its {name} hold NaN or infinity")


@jax.jit
def _finite(values: Shaped[jax.Array, "N D"]) -> Bool[jax.Array, " N"]:
    return jnp.all(jnp.isfinite(values), axis=1)


def refuse(bad: Bool[np.ndarray, " N"], why: str) -> None:
    """Raises ValueError naming the first bad row, if any."""
    if bad.any():
        raise ValueError(f"row {int(np.argmax(bad))}: {why}")
