"""Motion blur of 3D common corruptions (Kar et al., CVPR 2022): a camera moves through the scene.

The mean of the frames that a moving camera sees of the image's point cloud, rendered as by Niklaus et al.,
"3D Ken Burns effect from a single image", 2019, without its inpainting network.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.corruptions.corruption import Constants, Corruption, Extra
from clipjax.corruptions.filling import filled_holes
from clipjax.corruptions.filters import of_levels
from clipjax.corruptions.kinds._common_3d import SOURCE

SIDE = 512  # pixels a side of the reference's images, and its focal length
_BASELINE = 40.0  # also the largest disparity
_PATH = 59  # steps of the whole path; only its first frames are taken
_EDGE = 0.03  # points where the disparity bends more are left out
_NEAREST = 0.001
_SURFACE = 1e6  # the depth buffer holds this less the disparity, in float32: steps of 1/16
_LAYER = 1.0  # disparity: a point this far behind the nearest one, or less, is still visible
_LEAST = 2.0**-12  # smaller shares of a point in a pixel are rounding errors, and could fill a hole
_FIXED = 2.0**20  # sums are of whole numbers, so that their order does not matter
_BENDING = {(0, 0): 4, (-1, 0): -1, (-1, 1): -1, (0, -1): -1, (1, -1): -1}  # (row, column) offsets


class Move(NamedTuple):
    """The whole path: sideways in pixels of SIDE, and what is left of the nearest depth at its end."""

    right: Any
    down: Any
    depth: Any


class Cloud(NamedTuple):
    """points float32 [3, S, S]; all zero where left out."""

    points: Any
    nearest: Any


def sideways(key: Any) -> Move:
    """Draw an xy motion: 50 to 74 pixels to one side, -75 to 74 up or down."""
    side, right, down = jax.random.split(key, 3)
    sign = 1 - 2 * jax.random.bernoulli(side).astype(jnp.int32)
    shift = jax.random.randint(right, (), 50, 75)
    shift = jnp.where(sign > 0, shift, shift - 125)  # -75 to -51
    return Move(_float(shift), _float(jax.random.randint(down, (), -75, 75)), jnp.float32(1))


def inwards(key: Any) -> Move:
    """Draw a z motion: -30 to 29 pixels each way, and to half of the nearest depth or a little more."""
    right, down, depth = jax.random.split(key, 3)
    x, y = (_float(jax.random.randint(each, (), -30, 30)) for each in (right, down))
    return Move(x, y, 0.5 + 0.1 * jax.random.uniform(depth))


def motion_blur(draw: Any, images: Any, keys: Any, constants: Constants, extra: Extra) -> Any:
    """The truncated mean of the first `frames` uint8 frames that a moving camera sees of the point cloud."""

    def one(each: Any) -> Any:
        image, key, depth = each
        return blurred(image, depth, draw(key), int(constants["frames"]))

    return jax.lax.map(one, (images, keys, extra["depth"]))


def blurred(image: Any, depth: Any, move: Move, frames: int) -> Any:
    """[S, S, 3], [S, S] -> [S, S, 3]."""
    cloud = point_cloud(depth)

    def add(total: Any, number: Any) -> tuple[Any, None]:
        frame = half_pixel(quantised(render(image, cloud, move, _float(number) / _PATH)))
        return total + frame, None

    total, _ = jax.lax.scan(add, jnp.zeros(image.shape, jnp.int32), jnp.arange(frames))
    return of_levels(total // frames)


def point_cloud(depth: Any) -> Cloud:
    size = len(depth)
    disparity = 1 / (depth + 1e-7)
    disparity = disparity / disparity.max()
    padded = jnp.pad(disparity, 1, mode="edge")
    bending = sum(
        weight * padded[1 + row : 1 + row + size, 1 + column : 1 + column + size]
        for (row, column), weight in _BENDING.items()
    )
    far = SIDE * _BASELINE / (_BASELINE * disparity + 1e-7)
    at = ((np.arange(size) - (size - 1) / 2) / size).astype(np.float32)
    points = jnp.stack([far * at, far * at[:, None], far])
    margin = size // 4
    nearest = far[margin : size - margin, margin : size - margin].min()
    return Cloud(jnp.where(jnp.abs(bending) < _EDGE, points, 0), nearest)


def render(image: Any, cloud: Cloud, move: Move, share: Any) -> Any:
    """The view after a share of the path, [S, S, 3] in [0, 1]; black where nothing is seen."""
    size = len(image)
    # Points move instead of the camera, sideways so that the nearest one is `right` pixels of SIDE away.
    nearer = cloud.nearest * (share * move.depth - share)
    scale = -share * (cloud.nearest + nearer) / SIDE
    shift = jnp.stack([scale * move.right, scale * move.down, nearer])
    x, y, far = (cloud.points + shift[:, None, None]).reshape(3, -1)
    seen = far >= _NEAREST
    # A pinhole camera projects (x, y, far) to size * (x / far, y / far). Each point is shared out to the four
    # pixels around it.
    inverse = 1 / jnp.where(seen, far, 1)
    corners, weights = _corners(size * x * inverse + (size - 1) / 2, size * y * inverse + (size - 1) / 2)
    index = _index(corners, size, seen)
    # A pixel shows the points that fell into it and are at most one layer farther than the nearest.
    surface = _SURFACE - SIDE * _BASELINE / (jnp.where(seen, far, 1) + 1e-7)
    nearest = jnp.take_along_axis(index, weights.argmax(0)[None], 0)[0]
    buffer = jnp.full(size * size, _SURFACE).at[nearest].min(surface, mode="drop")
    buffer = degridded(buffer.reshape(size, size)).reshape(-1)
    front = surface <= buffer.at[index].get(mode="fill", fill_value=-jnp.inf) + _LAYER
    # Colours and depth are means over a pixel's points, weighted by their shares (the last column).
    largest = cloud.points[2].max()
    values = jnp.concatenate([image.reshape(-1, 3), far[:, None] / largest, jnp.ones_like(far)[:, None]], 1)
    sums = jnp.zeros((size * size, 5), jnp.int32)
    for corner in range(4):
        part = jnp.where(front[corner] & (weights[corner] >= _LEAST), weights[corner], 0)[:, None] * values
        sums = sums.at[index[corner]].add(jnp.round(part * _FIXED).astype(jnp.int32), mode="drop")
    total = sums.astype(jnp.float32) / _FIXED
    mean = (total[:, :4] / (total[:, 4:] + 1e-7)).reshape(size, size, 4)
    return filled_holes(mean[..., :3], mean[..., 3])


def _corners(u: Any, v: Any) -> tuple[Any, Any]:
    """(x, y) int32 [4, N, 2] of the pixels around each point (NW, NE, SW, SE), and their shares [4, N]."""
    left, top = jnp.floor(u), jnp.floor(v)
    right, down = u - left, v - top
    shares = jnp.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down])
    base = jnp.stack([left, top], -1)
    steps = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], np.float32)
    return (base + steps[:, None]).clip(-2, 2**20).astype(jnp.int32), shares


def _index(corners: Any, size: int, seen: Any) -> Any:
    """Flat indices; beyond the last for what is outside or not seen."""
    x, y = corners[..., 0], corners[..., 1]
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size) & seen
    return jnp.where(inside, y * size + x, size * size)


def degridded(buffer: Any) -> Any:
    """Close gaps between points of a near surface, through which a far one would be seen.

    Where a pixel is farther by 1 than both neighbours of an opposing pair, their mean counts. All pixels read
    the same buffer (the reference changes it in place, in no fixed order).
    """
    size = len(buffer)
    total, count = jnp.zeros_like(buffer), jnp.zeros_like(buffer)
    padded = jnp.pad(buffer, 1, constant_values=jnp.inf)  # never nearer

    def moved(down: int, right: int) -> Any:
        return padded[1 + down : 1 + down + size, 1 + right : 1 + right + size]

    for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1)):
        one, other = moved(-down, -right), moved(down, right)
        behind = (buffer >= one + 1) & (buffer >= other + 1)
        total += jnp.where(behind, one + other, 0)
        count += jnp.where(behind, 2.0, 0.0)
    return jnp.where(count > 0, jnp.minimum(buffer, total / jnp.maximum(count, 1)), buffer)


def quantised(frame: Any) -> Any:
    """Levels of a frame in [0, 1], int32 from 0 to 255, truncated."""
    return jnp.clip(frame * 255, 0, 255).astype(jnp.int32)


def half_pixel(frame: Any) -> Any:
    """The mean of a pixel, its right, lower and lower right neighbour, rounded up from a half.

    The reference crops every frame at a centre between pixels, which moves it by half a pixel.
    """
    padded = jnp.pad(frame, ((0, 1), (0, 1), (0, 0)), mode="edge")
    return (padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:] + 2) // 4


def _float(number: Any) -> Any:
    return number.astype(jnp.float32)


_SOURCE = f"{SOURCE}; the renderer of Niklaus et al., 3D Ken Burns effect from a single image, 2019"
_CONVENTION = (
    "the image plane has the image's size instead of 512 pixels, and the camera's path is scaled with it; "
    "the depth buffer is closed from a copy; shares below 1/4096 of a point are dropped; the draws are "
    "those of jax.random, one for all severities"
)
_APPROXIMATE = (
    "the reference adds points by an inpainting network: without it, what comes into view at the border is "
    "black; how the published images of 224 pixels were made is not known, so use those where you can"
)

CORRUPTIONS = tuple(
    Corruption(name, functools.partial(motion_blur, draw), _SOURCE, _CONVENTION, ("depth",), _APPROXIMATE)
    for name, draw in (("xy_motion_blur", sideways), ("z_motion_blur", inwards))
)
