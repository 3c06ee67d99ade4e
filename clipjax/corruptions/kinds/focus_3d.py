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

LEVELS = 9  # the quantiles 0, 1/8, ..., 1 of the depth
SHARP = 0.1  # a smaller radius, in pixels, leaves the copy as it is
WIDEST = 680.0  # pixels; larger radii are set to it
_TAPS = 1024  # more than half the taps of WIDEST
_EXACT = jax.lax.Precision.HIGHEST
_MARGIN = 1e-4  # moves the outer quantiles outwards


def focus(in_focus: int, images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """Blur by the distance to the quantile number `in_focus`; `aperture` scales the radii."""
    del keys
    blur = functools.partial(_focus_one, in_focus, constants["aperture"])
    return jax.vmap(blur)(images, extra["depth"])


def _focus_one(in_focus: int, aperture: float, image: Any, depth: Any) -> Any:
    """[S, S, 3], [S, S] -> [S, S, 3]."""
    levels = depth_levels(depth)
    radii = jnp.minimum(aperture * jnp.abs(levels - levels[in_focus]) / levels, WIDEST)
    others = np.delete(np.arange(LEVELS), in_focus)  # the level in focus has radius 0
    blurs = jax.vmap(functools.partial(blur_matrix, size=len(image)))(radii[others])
    rows = jnp.einsum("lij,jkc->likc", blurs, image, precision=_EXACT)
    copies = jnp.einsum("lkm,limc->likc", blurs, rows, precision=_EXACT)
    shares = level_shares(levels, depth)
    blended = jnp.einsum("likc,lik->ikc", copies, shares[others], precision=_EXACT)
    return blended + shares[in_focus][..., None] * image


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
    upper = jnp.clip((levels[:, None, None] < depth).sum(0), 1, LEVELS - 1)
    near, far = levels[upper - 1], levels[upper]
    left = (depth - near) / (far - near)
    right = 1 - left
    whole = (1 - left**2) + (1 - right**2)
    number = jnp.arange(LEVELS)[:, None, None]
    shares = jnp.where(number == upper - 1, 1 - left**2, 0) + jnp.where(number == upper, 1 - right**2, 0)
    return shares / whole


def blur_matrix(radius: Any, size: int) -> Any:
    """float32 [S, S]: a Gaussian blur of one axis as a matrix; the edge pixels repeat outwards.

    int(3 radius) taps, or one more if that is even, with sigma = radius: one tap below 2/3, three below 1.
    """
    sigma = jnp.maximum(radius, SHARP)
    half = (3 * radius).astype(jnp.int32) // 2
    n = jnp.arange(_TAPS)
    weights = jnp.where(n <= half, jnp.exp(-(n.astype(jnp.float32) ** 2) / (2 * sigma**2)), 0)
    tails = jnp.cumsum(weights[::-1])[::-1]  # of the taps from n on
    weights, tails = (each / (tails[0] + tails[1]) for each in (weights, tails))
    at = np.arange(size)
    matrix = weights[np.abs(at[:, None] - at)]
    matrix = matrix.at[:, 0].set(tails[at]).at[:, -1].set(tails[size - 1 - at])
    return jnp.where(radius < SHARP, jnp.eye(size, dtype=jnp.float32), matrix)


_SOURCE = "Kar et al., 3D common corruptions and data augmentation, CVPR 2022; its reference code at 4fc007b"
_GUARD = f"blur radii above {WIDEST:.0f} pixels are set to it"

CORRUPTIONS = (
    Corruption("near_focus", functools.partial(focus, 0), _SOURCE, _GUARD, ("depth",)),
    Corruption("far_focus", functools.partial(focus, LEVELS - 2), _SOURCE, _GUARD, ("depth",)),
)
