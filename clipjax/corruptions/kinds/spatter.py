"""Spatter of ImageNet-C: drops of water or mud on the lens (Hendrycks and Dietterich 2019, arXiv 1903.12261).

Water follows the reference's steps through OpenCV: edges (Canny), distance to them, equalised, embossed. They
are computed here in whole numbers, as OpenCV does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.corruptions.corruption import Constants, Corruption
from clipjax.corruptions.filters import filtered, gaussian_matrix, truncated
from clipjax.corruptions.kinds._imagenet_c import SOURCE, per_image

_WATER = np.array([175, 238, 238], np.float32) / 255  # pale turquoise
_MUD = np.array([63, 42, 20], np.float32) / 255
_WEAK, _STRONG = 50, 150  # Canny's thresholds
_FARTHEST = 20  # pixels from an edge
_STRAIGHT, _DIAGONAL, _KNIGHT = 1.0, 1.4, 2.1969  # OpenCV's lengths of a step, mask 5
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
_NEAR = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))


def spatter(image: jax.Array, key: jax.Array, constants: Constants) -> jax.Array:
    """Blurred noise above a threshold is liquid: water at the lower severities, mud (`mud` = 1) above."""
    size = image.shape[0]
    liquid = constants["mean"] + constants["deviation"] * jax.random.normal(key, (size, size))
    liquid = filtered(liquid, gaussian_matrix(size, constants["sigma"]))
    if constants["mud"]:
        cover = (liquid > constants["threshold"]).astype(image.dtype)
        cover = filtered(cover, gaussian_matrix(size, constants["strength"]))
        cover = jnp.where(cover < 0.8, 0, cover)[..., None]
        return image * (1 - cover) + _MUD * cover
    levels = truncated(jnp.where(liquid < constants["threshold"], 0, liquid))
    light = levels * relief(levels)
    light = light / jnp.maximum(light.max(), 1) * constants["strength"]
    return image + light[..., None] * _WATER


def relief(levels: jax.Array) -> jax.Array:
    """Brightness of each cell of a map [S, S], in levels: its embossed distances from edges."""
    distance = jnp.minimum(distances(edges(levels)), _FARTHEST)
    height = equalised(jnp.floor(_mean_of_nine(distance) + 1e-4))  # rounding must not lower equal lengths
    embossed = jnp.clip(_weighted(height, [w for row in _EMBOSS for w in row], "reflect"), 0, 255)
    return jnp.floor(_mean_of_nine(embossed) + 0.5)


def edges(levels: jax.Array) -> jax.Array:
    """bool [S, S]: OpenCV's Canny, 3 x 3 Sobel, the sum of the absolute slopes as strength."""
    levels = levels.astype(jnp.int32)
    down = _weighted(levels, (-1, -2, -1, 0, 0, 0, 1, 2, 1), "edge")
    right = _weighted(levels, (-1, 0, 1, -2, 0, 2, -1, 0, 1), "edge")
    strength = jnp.abs(down) + jnp.abs(right)
    possible = _ridge(strength, down, right) & (strength > _WEAK)
    certain = possible & (strength > _STRONG)

    def grow(state: tuple[Any, Any]) -> tuple[Any, Any]:
        reached, _ = state
        near = jnp.stack(_neighbours(reached, _NEAR, "constant")).any(0) & possible
        return near, (near != reached).any()

    return jax.lax.while_loop(lambda state: state[1], grow, (certain, jnp.array(True)))[0]


def _ridge(strength: jax.Array, down: jax.Array, right: jax.Array) -> jax.Array:
    """Whether cells are stronger than both neighbours along the slope. Ties: the first in raster order."""
    scaled = jnp.abs(down) * 32768
    flat = jnp.abs(right) * 13573  # tan(22.5 degrees) * 2^15
    steep = flat + jnp.abs(right) * 65536
    west, east, north, south, northwest, southeast, northeast, southwest = _neighbours(
        strength, ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (1, 1), (-1, 1), (1, -1)), "constant"
    )
    falling = (down < 0) == (right < 0)
    diagonal = jnp.where(
        falling,
        (strength > northwest) & (strength > southeast),
        (strength > northeast) & (strength > southwest),
    )
    horizontal = (strength > west) & (strength >= east)
    vertical = (strength > north) & (strength >= south)
    return jnp.where(scaled < flat, horizontal, jnp.where(scaled > steep, vertical, diagonal))


def distances(marked: jax.Array) -> jax.Array:
    """float32 [S, S]: the shortest way to a marked cell in steps of a 5 x 5 mask, exact up to `_FARTHEST`."""
    # Lengths of steps by |y| + |x|: straight, diagonal, a knight's move in chess. (0, 2) is (0, 1) twice.
    lengths = {1: _STRAIGHT, 2: _DIAGONAL, 3: _KNIGHT}
    steps = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if abs(y) + abs(x) in lengths]
    steps = [(y, x) for y, x in steps if {abs(y), abs(x)} != {0, 2}]
    start = jnp.where(marked, 0.0, 2.0 * _FARTHEST)

    def shorten(_: Any, way: jax.Array) -> jax.Array:
        padded = jnp.pad(way, 2, constant_values=2.0 * _FARTHEST)
        size = way.shape[0]
        for y, x in steps:
            near = padded[2 + y : 2 + y + size, 2 + x : 2 + x + size]
            way = jnp.minimum(way, near + lengths[abs(y) + abs(x)])
        return way

    return jax.lax.fori_loop(0, _FARTHEST, shorten, start)


def equalised(levels: jax.Array) -> jax.Array:
    """OpenCV's equalizeHist: the lowest level becomes 0, the others their share of the cells above it."""
    count = jnp.zeros(256).at[levels.astype(jnp.int32)].add(1)
    lowest = jnp.argmax(count > 0)
    above = levels.size - count[lowest]
    share = (jnp.cumsum(count) - count[lowest]) * (255 / jnp.maximum(above, 1))
    table = jnp.where(above > 0, jnp.round(jnp.maximum(share, 0)), lowest.astype(jnp.float32))
    return table[levels.astype(jnp.int32)]


def _mean_of_nine(image: jax.Array) -> jax.Array:
    return _weighted(image, [1.0] * 9, "reflect") / 9


def _weighted(image: jax.Array, weights: Sequence[float], border: str) -> jax.Array:
    """The sum of a 3 x 3 neighbourhood by weights, row by row (a correlation)."""
    return sum(
        (w * near for w, near in zip(weights, _neighbours(image, _NEAR, border)) if w), jnp.zeros_like(image)
    )


def _neighbours(image: jax.Array, steps: Sequence[tuple[int, int]], border: str) -> list[jax.Array]:
    """[S, S] each: of every cell the one at a step (down, right)."""
    height, width = image.shape
    padded = jnp.pad(image, 1, mode=border)
    return [padded[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in steps]


CORRUPTIONS = (
    Corruption("spatter", per_image(spatter), SOURCE, convention="OpenCV's steps, computed here", version=2),
)
