"""Depth of field of 3D common corruptions (Kar et al., CVPR 2022): near and far focus.

Nine copies of an image, each blurred for one quantile of its depth, are blended by the depth of every pixel.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.kinds._common_3d import SOURCE

LEVELS = 9  # the quantiles 0, 1/8, ..., 1 of the depth
SHARP = 0.1  # pixels: a smaller radius changes nothing
WIDEST = 680.0  # pixels; larger radii are set to it
_TAPS = 1024  # more than half the taps of WIDEST
_REACHES = (0, 3, 6)  # taps on one side that are summed one by one; the matrix is faster above
_EXACT = jax.lax.Precision.HIGHEST
_MARGIN = 1e-4  # moves the outer quantiles outwards


def focus(in_focus: int, images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """Blur by the distance to the quantile number `in_focus`; `aperture` scales the radii."""
    del keys
    blur = functools.partial(_focus_one, in_focus, constants["aperture"])
    return jax.lax.map(lambda each: blur(*each), (images, extra["depth"]))


def _focus_one(in_focus: int, aperture: float, image: Any, depth: Any) -> Any:
    """[S, S, 3], [S, S] -> [S, S, 3]."""
    levels = depth_levels(depth)
    radii = jnp.minimum(aperture * jnp.abs(levels - levels[in_focus]) / levels, WIDEST)
    shares = level_shares(levels, depth)
    others = np.delete(np.arange(LEVELS), in_focus)  # the level in focus has radius 0

    def add(total: Any, level: Any) -> tuple[Any, None]:
        radius, share = level
        return total + share[..., None] * blurred(image, radius), None

    sharp = shares[in_focus][..., None] * image
    return jax.lax.scan(add, sharp, (radii[others], shares[others]))[0]


def blurred(image: Any, radius: Any) -> Any:
    """A Gaussian blur, tap by tap if they are few, else by a matrix; the edge pixels repeat outwards."""
    ways = [functools.partial(_by_taps, reach) for reach in _REACHES] + [_by_matrix]
    half = _half(radius)
    way = sum((half > reach).astype(jnp.int32) for reach in _REACHES)
    return jax.lax.switch(way, ways, image, radius)


def _by_taps(reach: int, image: Any, radius: Any) -> Any:
    weights, _ = _taps(radius, reach + 2)
    for axis in (0, 1):
        size = image.shape[axis]
        padded = jnp.pad(
            image, [(reach, reach) if each == axis else (0, 0) for each in range(3)], mode="edge"
        )
        cut = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
        pairs = (
            weights[n] * (cut(reach - n, reach - n + size) + cut(reach + n, reach + n + size))
            for n in range(1, reach + 1)
        )
        image = sum(pairs, weights[0] * image)
    return image


def _by_matrix(image: Any, radius: Any) -> Any:
    matrix = blur_matrix(radius, len(image))
    rows = jnp.einsum("ij,jkc->ikc", matrix, image, precision=_EXACT)
    return jnp.einsum("km,imc->ikc", matrix, rows, precision=_EXACT)


def depth_levels(depth: Any) -> Any:
    """float32 [9]: the quantiles, with linear interpolation; the outer ones a margin further out."""
    ordered = jnp.sort(depth.reshape(-1))
    ranks = np.arange(LEVELS) / (LEVELS - 1) * (len(ordered) - 1)
    low = np.floor(ranks).astype(np.int32)
    high, share = np.minimum(low + 1, len(ordered) - 1), (ranks - low).astype(np.float32)
    levels = ordered[low] + share * (ordered[high] - ordered[low])
    margin = np.zeros(LEVELS, np.float32)
    margin[0], margin[-1] = -_MARGIN, _MARGIN
    return levels + margin


def level_shares(levels: Any, depth: Any) -> Any:
    """float32 [9, S, S], of sum 1: each pixel is between the levels j - 1 and j, the first with q_j >= D.

    With d the position between them in [0, 1], their shares are as 1 - d^2 to 1 - (1 - d)^2.
    """
    shares = [jnp.zeros_like(depth)] * LEVELS
    for j in range(1, LEVELS):
        above = depth > levels[j - 1] if j > 1 else True
        between = above & (depth <= levels[j]) if j < LEVELS - 1 else above
        left = (depth - levels[j - 1]) / (levels[j] - levels[j - 1])
        near, far = 1 - left**2, 1 - (1 - left) ** 2
        shares[j - 1] = jnp.where(between, near / (near + far), shares[j - 1])
        shares[j] = jnp.where(between, far / (near + far), shares[j])
    return jnp.stack(shares)


def blur_matrix(radius: Any, size: int) -> Any:
    """float32 [S, S]: the blur of one axis."""
    weights, tails = _taps(radius, _TAPS)
    at = np.arange(size)
    matrix = weights[np.abs(at[:, None] - at)]
    return matrix.at[:, 0].set(tails[at]).at[:, -1].set(tails[size - 1 - at])


def _taps(radius: Any, count: int) -> tuple[Any, Any]:
    """float32 [count] twice: the taps 0, 1, ... on one side, more than there are; sums of those from n on.

    int(3 radius) taps, or one more if that is even, with sigma = radius: one tap below 2/3, three below 1.
    """
    n = jnp.arange(count)
    sigma = jnp.maximum(radius, SHARP)
    weights = jnp.where(n <= _half(radius), jnp.exp(-(n.astype(jnp.float32) ** 2) / (2 * sigma**2)), 0)
    tails = jnp.cumsum(weights[::-1])[::-1]
    whole = tails[0] + tails[1]
    return weights / whole, tails / whole


def _half(radius: Any) -> Any:
    """Taps on one side. A radius below SHARP has none, so that its blur changes nothing."""
    return (3 * radius).astype(jnp.int32) // 2


_GUARD = f"blur radii above {WIDEST:.0f} pixels are set to it"

CORRUPTIONS = (
    Corruption("near_focus", functools.partial(focus, 0), SOURCE, _GUARD, ("depth",)),
    Corruption("far_focus", functools.partial(focus, LEVELS - 2), SOURCE, _GUARD, ("depth",)),
)
