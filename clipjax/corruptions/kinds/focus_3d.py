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
# Taps on one side of blurs that are compiled whole; longer ones take a loop over _BLOCK taps. Of fewer than
# eight, XLA would make one loop over both axes and blur every row anew for each pixel of a column.
_REACHES = (0, 8, 16)
_BORDER = _REACHES[-1]
_BLOCK = 16
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
    upper, near, far = between_levels(levels, depth)
    planes = jnp.moveaxis(image, -1, 0)
    padded = jnp.pad(planes, [(0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)], mode="edge")
    others = np.delete(np.arange(LEVELS), in_focus)  # the level in focus has radius 0

    def share(level: Any) -> Any:
        return jnp.where(upper == level, far, jnp.where(upper == level + 1, near, 0))

    def add(total: Any, level: Any) -> tuple[Any, None]:
        radius, number = level
        return total + share(number) * blurred(padded, radius), None

    total, _ = jax.lax.scan(add, share(in_focus) * planes, (radii[others], jnp.asarray(others)))
    return jnp.moveaxis(total, 0, -1)


def blurred(padded: Any, radius: Any) -> Any:
    """A Gaussian blur; the edge pixels repeat outwards.

    [3, S + 2 _BORDER, ...] -> [3, S, S].
    """
    ways = [functools.partial(_few_taps, reach) for reach in _REACHES] + [_many_taps]
    half = _half(radius)
    way = sum((half > reach).astype(jnp.int32) for reach in _REACHES)
    return jax.lax.switch(way, ways, padded, radius)


def _few_taps(reach: int, padded: Any, radius: Any) -> Any:
    weights, size = _taps(radius, reach + 2)[0], padded.shape[1] - 2 * _BORDER
    # w0 x[i] + w1 (x[i-1] + x[i+1]) + w2 (x[i-2] + x[i+2]) + ..., down and then across. Down, the image still
    # has its whole border; across it is cut to what the taps reach.
    image: Any = padded[:, :, _BORDER - reach : _BORDER + reach + size]
    first = _BORDER
    for axis in (1, 2):
        cut = functools.partial(jax.lax.slice_in_dim, image, axis=axis)
        pairs = (
            weights[n] * (cut(first - n, first - n + size) + cut(first + n, first + n + size))
            for n in range(1, reach + 1)
        )
        image, first = sum(pairs, weights[0] * cut(first, first + size)), reach
    return image


def _many_taps(padded: Any, radius: Any) -> Any:
    image = padded[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
    size = image.shape[1]
    blocks = -(-size // _BLOCK)
    reach = blocks * _BLOCK  # taps beyond it see the edges alone
    weights, tails = _taps(radius, max(_TAPS, reach + 2))
    needed = jnp.minimum(-(-_half(radius) // _BLOCK), blocks)
    for axis in (1, 2):
        border = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        wide = jnp.pad(image, border, mode="edge")
        ends = (jax.lax.slice_in_dim(image, at, at + 1, axis=axis) for at in (0, size - 1))

        def add(block: Any, total: Any, wide: Any = wide, axis: int = axis) -> Any:
            cut = functools.partial(jax.lax.dynamic_slice_in_dim, wide, slice_size=size, axis=axis)
            taps = (block * _BLOCK + n for n in range(1, _BLOCK + 1))
            return sum((weights[n] * (cut(reach - n) + cut(reach + n)) for n in taps), total)

        start = weights[0] * image + tails[reach + 1] * sum(ends)
        image = jax.lax.fori_loop(0, needed, add, start)
    return image


def depth_levels(depth: Any) -> Any:
    """float32 [9]: the quantiles, with linear interpolation; the outer ones a margin further out."""
    ordered = _sorted(depth.reshape(-1))
    ranks = np.arange(LEVELS) / (LEVELS - 1) * (len(ordered) - 1)
    low = np.floor(ranks).astype(np.int32)
    high, share = np.minimum(low + 1, len(ordered) - 1), (ranks - low).astype(np.float32)
    below, above = (jax.lax.bitcast_convert_type(_flipped(ordered[at]), jnp.float32) for at in (low, high))
    levels = below + share * (above - below)
    margin = np.zeros(LEVELS, np.float32)
    margin[0], margin[-1] = -_MARGIN, _MARGIN
    return levels + margin


def _sorted(depth: Any) -> Any:
    """int32: `_flipped` bits in order. On a CPU XLA sorts integers ten times as fast as floats."""
    return jax.lax.sort(_flipped(jax.lax.bitcast_convert_type(depth, jnp.int32)), is_stable=False)


def _flipped(bits: Any) -> Any:
    """The bits of floats as integers of the same order, and back."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def between_levels(levels: Any, depth: Any) -> tuple[Any, Any, Any]:
    """The first level j from 1 with q_j >= D, and the shares of the levels j - 1 and j, all [S, S].

    With d the position between them in [0, 1], their shares are as 1 - d^2 to 1 - (1 - d)^2.
    """
    upper, below, above = jnp.ones(depth.shape, jnp.int32), levels[0], levels[1]
    for j in range(1, LEVELS - 1):
        beyond = depth > levels[j]
        upper += beyond.astype(jnp.int32)
        below, above = jnp.where(beyond, levels[j], below), jnp.where(beyond, levels[j + 1], above)
    left = (depth - below) / (above - below)
    near, far = 1 - left**2, 1 - (1 - left) ** 2
    return upper, near / (near + far), far / (near + far)


def _taps(radius: Any, count: int) -> tuple[Any, Any]:
    """float32 [count] twice: the taps 0, 1, ... on one side, more than there are; sums of those from n on.

    int(3 radius) taps, or one more if that is even, with sigma = radius: one tap below 2/3, three below 1.
    """
    n = jnp.arange(count)
    sigma = jnp.maximum(radius, SHARP)
    weights = jnp.where(n <= _half(radius), jnp.exp(-(n.astype(jnp.float32) ** 2) / (2 * sigma**2)), 0)
    tails = jnp.cumsum(weights[::-1])[::-1]
    share = 1 / (tails[0] + tails[1])  # of arrays by a scalar, XLA makes other divisions for several devices
    return share * weights, share * tails


def _half(radius: Any) -> Any:
    """Taps on one side. A radius below SHARP has none, so that its blur changes nothing."""
    return (3 * radius).astype(jnp.int32) // 2


_GUARD = f"blur radii above {WIDEST:.0f} pixels are set to it"

CORRUPTIONS = (
    Corruption("near_focus", functools.partial(focus, 0), SOURCE, _GUARD, ("depth",), version=2),
    Corruption("far_focus", functools.partial(focus, LEVELS - 2), SOURCE, _GUARD, ("depth",), version=2),
)
