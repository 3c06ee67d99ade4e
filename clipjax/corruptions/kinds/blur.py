"""The blurs of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.corruptions.corruption import Constants, Corruption
from clipjax.corruptions.filters import (
    filtered,
    gaussian_matrix,
    motion_blurred,
    of_levels,
    rounded,
    truncated,
    zoomed,
)
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image


def gaussian_blur(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """A Gaussian of `sigma` pixels, cut at 4 sigma, edges repeated."""
    del key
    return filtered(image, gaussian_matrix(image.shape[0], constants["sigma"]))


def glass_blur(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Blurred, truncated to levels, pixels replaced by near ones, blurred again."""
    size, reach = image.shape[0], int(constants["reach"])
    blur = gaussian_matrix(size, constants["sigma"])
    shifts = jax.random.randint(key, (int(constants["rounds"]), size, size, 2), -reach, reach)
    levels = truncated(filtered(image, blur))
    for shift in shifts:
        levels = levels.reshape(-1, 3)[_origins(shift, reach)].reshape(levels.shape)
    return filtered(of_levels(levels), blur)


def _origins(shift: jax.Array, reach: int) -> jax.Array:
    """int [S * S]: the cell of the old image that each cell ends up with.

    The reference goes from the last pixel to the first and gives each the value that the pixel at its
    `shift` (dx, dy) has at that moment: a new value if it comes later in the image, else an old one. Node i
    is cell i's new value, node i + S * S its old one. Each node points to the node that it copies, and
    doubling the steps finds the old value at the end of each chain.
    """
    size = shift.shape[0]
    cells = size * size
    row, column = jnp.mgrid[:size, :size]
    here = row * size + column
    y, x = row + shift[..., 1], column + shift[..., 0]
    inside = _moved(row, column, size, reach)
    target = jnp.where(inside, y * size + x, here)
    renewed = inside & _moved(y, x, size, reach) & (target > here)
    new = jnp.where(renewed, target, target + cells).reshape(-1)
    copies = jnp.concatenate([new, jnp.arange(cells, 2 * cells)])
    for _ in range(cells.bit_length()):
        copies = copies[copies]
    return copies[:cells] - cells


def _moved(row: Any, column: Any, size: int, reach: int) -> Any:
    # The reference's loops: `for h in range(size - reach, reach, -1)`, and so for the columns.
    return (row > reach) & (row <= size - reach) & (column > reach) & (column <= size - reach)


def defocus_blur(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Correlation with a disk, reflected about the edge pixels.

    Row by row: the bits of XLA's convolution depend on the number of threads.
    """
    del key
    kernel = _disk(constants["radius"], constants["smoothing"])
    size, reach = len(image), len(kernel) // 2
    planes = jnp.moveaxis(image, 2, 0)
    padded = jnp.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")

    def add(row: Any, total: jax.Array) -> jax.Array:
        rows, weights = jax.lax.dynamic_slice_in_dim(padded, row, size, axis=1), jnp.asarray(kernel)[row]
        return sum((weights[k] * rows[:, :, k : k + size] for k in range(len(kernel))), total)

    return jnp.moveaxis(jax.lax.fori_loop(0, len(kernel), add, jnp.zeros_like(planes)), 0, 2)


def _disk(radius: float, sigma: float) -> np.ndarray:
    """float32 [K, K]: a disk of cells, smoothed by a Gaussian of 3 taps, or of 5 above a radius of 8."""
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    across = np.arange(-reach, reach + 1)
    disk = (across**2 + across[:, None] ** 2 <= radius**2).astype(np.float64)
    offsets = np.arange(taps) - taps // 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(disk / disk.sum(), taps // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps))
    return np.einsum("ijyx,y,x->ij", windows, weights, weights).astype(np.float32)


def motion_blur(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """ImageMagick's motion blur at a random angle of -45 to 45 degrees, rounded to levels."""
    angle = jax.random.uniform(key, minval=-45.0, maxval=45.0)
    return of_levels(rounded(motion_blurred(image, constants["radius"], constants["sigma"], angle)))


def zoom_blur(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """The mean of the image and of its zooms 1, 1 + step, ..., `zooms` of them."""
    del key
    total = image
    for k in range(int(constants["zooms"])):
        total = total + zoomed(image, 1 + k * constants["step"])
    return total / (int(constants["zooms"]) + 1)


_GLASS = (
    "a pixel is replaced by another, not swapped with it, because the reference's swap of two views writes "
    "one value twice; the area that moves scales with the image"
)
_MOTION = "ImageMagick's motion blur computed here: taps at whole pixels, edges repeated"

CORRUPTIONS = (
    Corruption("defocus_blur", per_image(defocus_blur), SOURCE, version=2),
    Corruption("glass_blur", per_image(glass_blur), SOURCE, convention=_GLASS),
    Corruption("motion_blur", per_image(motion_blur), SOURCE, convention=_MOTION),
    Corruption("zoom_blur", per_image(zoom_blur), SOURCE),
    Corruption("gaussian_blur", per_image(gaussian_blur), SOURCE),
)
