"""Elastic transform, pixelate and JPEG of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.filters import (
    box_matrix,
    filtered,
    gaussian_matrix,
    mirrored,
    of_levels,
    reflected,
    rounded,
    sampled,
)
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image


def elastic_transform(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """A random affine map, then smooth random shifts of every pixel."""
    affine, shift = jax.random.split(key)
    size = image.shape[0]
    row, column = jnp.mgrid[:size, :size].astype(jnp.float32)
    y, x = _affine(jax.random.uniform(affine, (3, 2), minval=-1.0), size, constants["corner"], row, column)
    turned = sampled(image, y, x, reflected)
    smooth = gaussian_matrix(size, constants["sigma"], "mirror", truncate=3.0)
    dx, dy = (
        filtered(noise, smooth) * constants["strength"]
        for noise in jax.random.uniform(shift, (2, size, size), minval=-1.0)
    )
    return sampled(turned, row + dy, column + dx, mirrored)


def _affine(draws: jax.Array, size: int, reach: float, row: jax.Array, column: jax.Array) -> Any:
    """The source (y, x) of each cell if three corners of the middle square move by reach * draws.

    A corner is (x, y); draws [3, 2] are in [-1, 1].
    """
    centre, third = size // 2, size // 3
    old = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) * third + centre
    new = old + reach * draws
    # The inverse map takes the new corners to the old ones: x = old[2] + edges of old (edges of new)^-1.
    a, b = new[0] - new[2], new[1] - new[2]
    inverse = 1 / (a[0] * b[1] - a[1] * b[0])  # XLA divides by a scalar otherwise for several devices
    right, down = column - new[2, 0], row - new[2, 1]
    along_a = (right * b[1] - down * b[0]) * inverse
    along_b = (down * a[0] - right * a[1]) * inverse
    edge_a, edge_b = old[0] - old[2], old[1] - old[2]
    x = old[2, 0] + along_a * edge_a[0] + along_b * edge_b[0]
    y = old[2, 1] + along_a * edge_a[1] + along_b * edge_b[1]
    return y, x


def pixelate(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Pillow's BOX down to a share of the side, and back; each pass is rounded to levels."""
    del key
    size = image.shape[0]
    small = int(size * constants["share"])
    for matrix in (box_matrix(size, small), box_matrix(small, size)):
        for equation in ("cj,ijk->ick", "ri,ijk->rjk"):
            image = jnp.einsum(equation, matrix, image, precision=jax.lax.Precision.HIGHEST)
            image = of_levels(rounded(image))
    return image


def jpeg_compression(images: np.ndarray, keys: Any, constants: Constants, extra: Extra) -> np.ndarray:
    """Pillow's JPEG file of a quality, read again."""
    del keys, extra
    levels = np.round(images * 255).astype(np.uint8)
    return (
        np.stack([_through_jpeg(each, int(constants["quality"])) for each in levels]).astype(np.float32) / 255
    )


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as image:
        return np.asarray(image)


_ELASTIC = (
    "positions of the affine map are exact (OpenCV rounds them to 1/32 pixel); the corners and shifts keep "
    "their sizes in pixels"
)

CORRUPTIONS = (
    Corruption("elastic_transform", per_image(elastic_transform), SOURCE, convention=_ELASTIC, version=2),
    Corruption("pixelate", per_image(pixelate), SOURCE),
    Corruption(
        "jpeg_compression", jpeg_compression, SOURCE, convention="Pillow's encoder and decoder", on_host=True
    ),
)
