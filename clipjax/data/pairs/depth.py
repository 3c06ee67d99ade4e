"""Depth pictures, and the points that they show."""

from __future__ import annotations

import numpy as np

from clipjax.data.pixels.depth_png import depth_values
from clipjax.data.pixels.preprocess import open_image
from clipjax.errors import DataError


def decode_depth(data: bytes, name: str) -> np.ndarray:
    """`depth_values` of an encoded picture."""
    return depth_values(open_image(data, name), name)


def unproject(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points in camera coordinates (right, down, ahead), through the centres of the pixels.

    Args:
        depth: [H, W], in metres along the axis; 0 where it is missing.
        intrinsics: [3, 3], in pixels of this picture.

    Returns: float32 [H, W, 3]; (0, 0, 0) where the depth is missing.
    """
    height, width = depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics.astype(np.float64)).T
    return (rays * depth[..., None]).astype(np.float32)


def check_points(points: np.ndarray, where: str) -> None:
    """Raises DataError for an image without a point. `points`: [2, h, w, 3]."""
    for k in range(2):
        if not (points[k, ..., 2] > 0).any():
            raise DataError(f"{where}: image {k} has no point with a depth on the grid")
