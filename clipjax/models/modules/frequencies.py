"""Depthwise convolutions of small maps as two matrix products, for a TPU.

A TPU's matrix unit runs a depthwise convolution as a product with a diagonal matrix for each pixel of the
kernel: of 128 multiplications one counts. A Fourier transform of a map's pixels is one product for all
channels, and a convolution is one factor per frequency and channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array
from jaxtyping import Float

_UNIT = 128  # rows of a v5e's matrix unit
_MARGIN = 1.3  # the two products have lower estimates where they multiply this much less
_SMALLEST = 7  # EfficientNet's 3x3 and 5x5 kernels: higher estimates, since a block prefers other layouts


def pays(x: Float[Array, "B H W C"], size: int) -> bool:
    """Whether maps and kernels of these sizes are faster in this form."""
    if size < _SMALLEST or size % 2 == 0:
        return False
    height, width = x.shape[1:3]
    # A pair of opposite frequencies has three factors (`_transforms`). Both products are made in whole units.
    pixels, factors = height * width, 3 * math.prod(_periods(height, width, size)) // 2
    products = factors * -(-pixels // _UNIT) + pixels * -(-factors // _UNIT)
    return _MARGIN * products < pixels * size**2


def by_frequencies(x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"]) -> Float[Array, "B H W C"]:
    """A depthwise convolution of stride 1 with (k - 1) / 2 zeros on each side; k is odd.

    In bfloat16 a map's error is 2 to 3 times that of rounding the exact result once. It is spread evenly over
    the map, so beside an outlier it is a larger share of the other numbers.
    """
    batch, height, width, channels = x.shape
    forward, of_kernel, backward = _transforms(height, width, len(kernel))
    weights = kernel.reshape(-1, channels).astype(jnp.float32)
    factors = jnp.einsum("fk,kc->fc", of_kernel, weights, precision="high")  # 1e-5; terms are rounded later
    wide: Any = {"preferred_element_type": jnp.float32}
    pixels = x.reshape(batch, height * width, channels)
    terms = jnp.einsum("fp,bpc->bfc", forward.astype(x.dtype), pixels, **wide)
    terms = (terms * factors).astype(x.dtype)
    y = jnp.einsum("pf,bfc->bpc", backward.astype(x.dtype), terms, **wide)
    return y.astype(x.dtype).reshape(x.shape)


def _periods(height: int, width: int, size: int) -> tuple[int, int]:
    """Periods of the transforms. The zeros after a map's end are also those before its beginning."""
    return height + size // 2, width + size // 2


@lru_cache
def _transforms(height: int, width: int, size: int) -> tuple[Any, Any, Any]:
    """Matrices that transform a map [F, H * W] and a kernel [F, k * k], and back to a map [H * W, F].

    A complex product of a + bi and c + di is three real ones: t = (a + b) c, u = a (d - c), v = b (c + d).
    Its real part is t - v, its imaginary part t + u. A real map needs one of each two frequencies f and -f.
    """
    periods = _periods(height, width, size)

    def waves(ys: Sequence[int], xs: Sequence[int]) -> tuple[Any, Any, Any]:
        """Cosine of the frequencies that are their own opposites; cosine and sine of the others."""
        angles = []
        for down, across in _frequencies(*periods):
            turns = np.multiply.outer(down, ys)[:, :, None] + np.multiply.outer(across, xs)[:, None]
            angles.append(2 * np.pi * turns.reshape(len(turns), -1))
        alone, pairs = angles
        return np.cos(alone), np.cos(pairs), np.sin(pairs)

    alone, cos, sin = waves(range(height), range(width))
    # With the root all numbers are below 1, where bfloat16 is finer.
    mixed = (cos - sin) / 2**0.5
    forward = np.concatenate([alone, mixed, cos, -sin])
    backward = np.concatenate([alone, mixed, -sin, -cos]).T
    shifts = range(size // 2, -(size // 2) - 1, -1)
    alone, cos, sin = waves(shifts, shifts)
    of_kernel = np.concatenate([alone, 4 * cos, -2 * (cos + sin), 2 * (cos - sin)]) / math.prod(periods)
    return _rounded(forward), of_kernel.astype(np.float32), backward.astype(np.float32)


def _frequencies(rows: int, cols: int) -> tuple[Any, Any]:
    """Turns per pixel, down and across, [2, N]: those that are their own opposites; half of the others."""
    # Frequencies (i, j) and (-i, -j) give a real map conjugate numbers: one of the two is enough.
    each = [(i, j) for i in range(rows) for j in range(cols)]
    opposites = [(-i % rows, -j % cols) for i, j in each]
    alone = [this for this, other in zip(each, opposites, strict=True) if this == other]
    half = [this for this, other in zip(each, opposites, strict=True) if this < other]
    sides = np.array([[rows], [cols]])
    return np.array(alone).T / sides, np.array(half).T / sides


def _rounded(matrix: Any) -> Any:
    """Rows of bfloat16 values; each number's error is carried on to the next.

    So the errors of a row add up to nothing over pixels that are alike. Without it a map's mean, if as large
    as the deviation, doubles the error of the result.
    """
    rounded, error = np.empty(matrix.shape, np.float32), np.zeros(len(matrix))
    for column in range(matrix.shape[1]):
        exact = matrix[:, column] + error
        rounded[:, column] = exact.astype(ml_dtypes.bfloat16)
        error = exact - rounded[:, column]
    return rounded
