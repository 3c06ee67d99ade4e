"""Linear filters of square images, as small matrices made once: blurs, zooms, Pillow's BOX, motion.

A filter of rows and of columns is `filtered(image, matrix)`: matrix @ image @ matrix.T for each channel. The
matrices are made in float64. `size` is the side of an image in pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Border = Literal["edge", "mirror"]

UNIT = (np.arange(256) / 255).astype(np.float32)
# 1 / 255 in two parts. A level times the first part is exact, so the sum is rounded once, as IEEE's division
# is and XLA's is not. A table of 256 values takes twice as long.
_PARTS = np.float32(32896 / 2**23), np.float32(1 / 255 - 32896 / 2**23)
_HIGHEST = jax.lax.Precision.HIGHEST


def of_levels(levels: Any) -> jax.Array:
    """float32 in [0, 1] of levels 0 to 255: whoever multiplies by 255 and truncates gets them back.

    The bits are those of `UNIT`.
    """
    wide = levels.astype(jnp.float32)
    return wide * _PARTS[0] + wide * _PARTS[1]


def truncated(image: Any) -> jax.Array:
    """Levels 0 to 255 of an image in [0, 1], rounded down.

    A thousandth of a level is added first: rounding errors must not lower the level of a flat area.
    """
    return jnp.floor(jnp.clip(image, 0, 1) * 255 + 1e-3)


def rounded(image: Any) -> jax.Array:
    """Levels 0 to 255 of an image in [0, 1], the nearest ones."""
    return jnp.floor(jnp.clip(image, 0, 1) * 255 + 0.5)


def filtered(image: jax.Array, matrix: np.ndarray) -> jax.Array:
    """[S, S] or [S, S, C] -> [R, R] or [R, R, C] by a matrix [R, S]."""
    rows = jnp.einsum("ri,ij...->rj...", matrix, image, precision=_HIGHEST)
    return jnp.einsum("cj,rj...->rc...", matrix, rows, precision=_HIGHEST)


def gaussian_matrix(size: int, sigma: float, border: Border = "edge", truncate: float = 4.0) -> np.ndarray:
    """float32 [size, size]: scipy's `gaussian_filter1d`; "mirror" is its "reflect", "edge" its "nearest"."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    columns = np.arange(size)[:, None] + offsets
    columns = np.clip(columns, 0, size - 1) if border == "edge" else mirrored(columns, size)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], columns), weights)
    return matrix.astype(np.float32)


def mirrored(index: Any, size: int) -> Any:
    """Indices of edge cells repeated and reflected: 1 0 | 0 1 2 | 2 1."""
    folded = index % (2 * size)
    return (jnp if isinstance(index, jax.Array) else np).minimum(folded, 2 * size - 1 - folded)


def reflected(index: Any, size: int) -> Any:
    """Indices reflected about edge cells, which are not repeated: 2 1 | 0 1 2 | 1 0."""
    folded = index % (2 * size - 2)
    return (jnp if isinstance(index, jax.Array) else np).minimum(folded, 2 * size - 2 - folded)


def box_matrix(size: int, new_size: int) -> np.ndarray:
    """float32 [new_size, size]: Pillow's resize with BOX, whose cells count whole or not at all."""
    # Pillow's `precompute_coeffs` (src/libImaging/Resample.c). From 5 cells to 2, each covers 2.5. It is
    # the mean of the old ones whose centre is in it: 0, 1 and 2 (centre 2.5, at the end), then 3 and 4.
    scale = size / new_size
    support = 0.5 * max(scale, 1.0)
    matrix = np.zeros((new_size, size))
    for row in range(new_size):
        centre = (row + 0.5) * scale
        cells = np.arange(max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size))
        distance = (cells - centre + 0.5) / (2 * support)
        matrix[row, cells] = (distance > -0.5) & (distance <= 0.5)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def zoomed(image: jax.Array, factor: float) -> jax.Array:
    """The middle of an image [S, S, ...], enlarged `factor` times to [S, S, ...].

    As `scipy.ndimage.zoom(order=1)` of the central ceil(S / factor) pixels, cut to S: the centres of the
    outermost pixels stay in place.
    """
    size = image.shape[0]
    inside = math.ceil(size / factor)
    outside = round(inside * factor)
    position = np.arange(outside) * ((inside - 1) / max(outside - 1, 1))
    position = position[(outside - size) // 2 :][:size]
    low = np.minimum(position.astype(int), max(inside - 2, 0))
    share = (position - low).astype(np.float32)
    first = (size - inside) // 2 + low
    second = np.minimum(first + 1, size - 1)
    for axis in (0, 1):
        weight = np.expand_dims(share, tuple(k for k in range(image.ndim) if k != axis))
        image = jnp.take(image, first, axis) * (1 - weight) + jnp.take(image, second, axis) * weight
    return image


def motion_blurred(image: jax.Array, radius: float, sigma: float, angle: Any) -> jax.Array:
    """ImageMagick's MotionBlurImage: a one-sided Gaussian along a line, whose taps are whole pixels.

    Args:
        image: [S, S, C].
        radius: in pixels; there are 2 ceil(radius) + 1 taps.
        sigma: in pixels.
        angle: of the line in degrees, clockwise from the direction of the rows; may be traced.
    """
    taps = 2 * math.ceil(radius) + 1
    weights = np.exp(-0.5 * (np.arange(taps) / sigma) ** 2)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    far = taps - 1
    padded = jnp.pad(image, ((far, far), (far, far), (0, 0)), mode="edge")
    turn = jnp.deg2rad(angle)
    steps = jnp.arange(taps, dtype=jnp.float32)
    down, right = (jnp.ceil(steps * part - 0.5).astype(jnp.int32) for part in (jnp.sin(turn), jnp.cos(turn)))

    def add(k: Any, total: jax.Array) -> jax.Array:
        window = jax.lax.dynamic_slice(padded, (far + down[k], far + right[k], 0), image.shape)
        return total + weights[k] * window

    return jax.lax.fori_loop(0, taps, add, jnp.zeros_like(image))


def sampled(image: jax.Array, y: jax.Array, x: jax.Array, fold: Any) -> jax.Array:
    """Bilinear values [R, R, C] of an image [S, S, C] at rows y and columns x [R, R].

    Args:
        fold: how indices outside the image are brought inside: `mirrored` or `reflected`.
    """
    size = image.shape[0]
    top, left = jnp.floor(y), jnp.floor(x)
    below, beyond = (y - top)[..., None], (x - left)[..., None]
    rows = [fold(top.astype(jnp.int32) + k, size) for k in (0, 1)]
    columns = [fold(left.astype(jnp.int32) + k, size) for k in (0, 1)]
    upper, lower = (image[row, columns[0]] * (1 - beyond) + image[row, columns[1]] * beyond for row in rows)
    return upper * (1 - below) + lower * below
