"""Errors of matches, and the share of matches that is near enough, by viewpoint change.

As in probe3d (El Banani et al. 2024): errors in metres and pixels for pairs with depth and cameras (NAVI,
ScanNet), the share of keypoints within a part of the object's box for SPair-71k (PCK). A match that is not
there has the error NaN: it counts neither as right nor as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Float64, Real

from clipjax.metrics.correspondence import Matches

_HIGHEST = jax.lax.Precision.HIGHEST
_LEAST_DEPTH = 1e-9  # metres


@jax.jit
def match_errors(
    matches: Matches,
    points: Float[Array, "2 H W 3"],
    intrinsics: Float[Array, "3 3"],
    motion: Float[Array, "4 4"],
) -> tuple[Float32[Array, " K"], Float32[Array, " K"]]:
    """The error of each match in metres (3D) and in pixels of image 1 (2D); NaN where none is there.

    Args:
        points: of image 0 and 1, each in its own camera's coordinates, in metres.
        intrinsics: of image 1, in the pixels that errors are wanted in.
        motion: from camera 0 to camera 1.
    """
    from0, at1 = points[0].reshape(-1, 3)[matches.query], points[1].reshape(-1, 3)[matches.key]
    moved = jnp.matmul(from0, motion[:3, :3].T, precision=_HIGHEST) + motion[:3, 3]
    off3d = jnp.linalg.norm(moved - at1, axis=1)
    off2d = jnp.linalg.norm(_pixels(moved, intrinsics) - _pixels(at1, intrinsics), axis=1)
    return jnp.where(matches.there, off3d, jnp.nan), jnp.where(matches.there, off2d, jnp.nan)


def _pixels(points: Array, intrinsics: Array) -> Array:
    seen = jnp.matmul(points, intrinsics.T, precision=_HIGHEST)
    return seen[:, :2] / jnp.maximum(seen[:, 2:], _LEAST_DEPTH)


@jax.jit
def keypoint_errors(
    places: Float[Array, "K 2"],
    keypoints: Float[Array, "K 2"],
    visible: Bool[Array, " K"],
    side: float | Real[Array, ""],
    extent: float | Real[Array, ""],
) -> Float32[Array, " K"]:
    """Distances from each keypoint of image 1 as a share of the object's extent; NaN where not visible.

    Args:
        places: what `keypoint_matches` returns, shares of the side.
        keypoints: (x, y) of image 1, in pixels of the square image.
        visible: in both images.
        side: of the square image, in pixels.
        extent: the longer side of the object's box in image 1 as a share of the side.
    """
    off = jnp.linalg.norm(places - keypoints / side, axis=1) / extent
    return jnp.where(visible, off, jnp.nan)


def recall_of_pairs(
    errors: Real[np.ndarray, "P K"], thresholds: Sequence[float]
) -> Float64[np.ndarray, "P T"]:
    """The share of each pair's matches with an error < threshold; NaN for a pair without a match."""
    right = np.stack([(errors < each).sum(axis=1) for each in thresholds], axis=1)
    count = (~np.isnan(errors)).sum(axis=1, keepdims=True)
    return np.divide(right, count, out=np.full(right.shape, np.nan), where=count > 0)


def in_bins(values: Real[np.ndarray, " P"], edges: Sequence[Sequence[float]]) -> Bool[np.ndarray, "B P"]:
    """Find the pairs of each bin: lo <= value < hi. A NaN is in none."""
    return np.array([(values >= lo) & (values < hi) for lo, hi in edges])
