"""Solid shapes seen by cameras: pictures with exact depth, for pairs of views.

picture, depth = view((90, 120), intrinsics, pose, prism("star", half=40.0, thick=20.0))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.demo.world.shapes import SHAPES, UNKNOWN, Outline

EMPTY = 90  # the grey where there is nothing
_LEAST = 1e-9  # length of a ray that starts on a surface
_WAVES = 24


class Solid(NamedTuple):
    """A prism around the origin, its outline in x and y.

    Attributes:
        outline: polygons in the unit of poses, painted over each other.
        thick: half its thickness, along z.
        look: seed of its pattern.
    """

    outline: Outline
    thick: float
    look: int = 5

    @property
    def extent(self) -> float:
        """The largest coordinate."""
        return max(self.thick, *(float(np.abs(polygon).max()) for polygon, _ in self.outline))


def prism(shape: str, half: float, thick: float, look: int = 5) -> Solid:
    """A shape of the world; `half` its half height."""
    return Solid([(half * polygon, fill) for polygon, fill in (SHAPES | UNKNOWN)[shape]], thick, look)


def box(half: Sequence[float], look: int = 5) -> Solid:
    """`half`: half its sides along x, y and z."""
    x, y, z = half
    return Solid([(np.array([(-x, -y), (x, -y), (x, y), (-x, y)]), 1)], z, look)


def corners(solid: Solid) -> np.ndarray:
    """The ends of the first polygon's edges along z, float64 [2n, 3]."""
    polygon = solid.outline[0][0]
    return np.concatenate([np.c_[polygon, np.full(len(polygon), z)] for z in (-solid.thick, solid.thick)])


# -----------------------------------------------------------------------------------------------------------
# Cameras. A pose [4, 4] takes points of the world to those of a camera (right, down, ahead).


def rotation(axis: Sequence[float], degrees: float) -> np.ndarray:
    """Rodrigues' formula: float64 [3, 3]."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def motion(turn: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turn, shift
    return made


def quaternion(turn: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation by less than 180 degrees."""
    w = np.sqrt(max(0, 1 + np.trace(turn))) / 2
    x, y, z = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
    return np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])


def angle_between(pose0: np.ndarray, pose1: np.ndarray) -> float:
    """The angle between two cameras in degrees."""
    trace = np.trace(pose1[:3, :3] @ pose0[:3, :3].T)
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def camera(focal: float, size: tuple[int, int]) -> np.ndarray:
    """Intrinsics [3, 3] whose principal point is the middle. Lengths in pixels; `size`: height, width."""
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])


def project(points: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] of the world -> (x, y) in pixels [n, 2], and their depths [n]."""
    seen = points @ pose[:3, :3].T + pose[:3, 3]
    return (seen @ intrinsics.T)[:, :2] / seen[:, 2:], seen[:, 2]


# -----------------------------------------------------------------------------------------------------------
# Pictures.


def view(
    size: tuple[int, int], intrinsics: np.ndarray, pose: np.ndarray, solid: Solid
) -> tuple[np.ndarray, np.ndarray]:
    """A solid seen from outside, or from inside.

    Args:
        size: height, width.
        pose: world to camera.

    Returns: uint8 [H, W, 3], and the depth float64 [H, W] in the unit of `pose`, 0 where there is nothing.
    """
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
    turn, shift = pose[:3, :3], pose[:3, 3]
    origin, rays = -turn.T @ shift, rays @ turn  # in the solid's coordinates; depth = length along the ray
    depth = _lengths(origin, rays, solid)
    picture = np.where(depth[:, None] > 0, _colours(origin + rays * depth[:, None], solid), EMPTY)
    return picture.astype(np.uint8).reshape(height, width, 3), depth.reshape(height, width)


def _lengths(origin: np.ndarray, rays: np.ndarray, solid: Solid) -> np.ndarray:
    """The distance along each ray [N, 3] to the nearest surface; 0 where it meets none."""
    nearest = np.full(len(rays), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in (-solid.thick, solid.thick):
            length = (side - origin[2]) / rays[:, 2]
            hit = _covered(origin[:2] + rays[:, :2] * length[:, None], solid.outline)
            nearest = _nearer(nearest, length, hit)
        for polygon, _ in solid.outline:
            lengths, hit = _walls(origin, rays, polygon, solid.thick)
            nearest = _nearer(nearest, np.where(hit & (lengths > _LEAST), lengths, np.inf).min(axis=1), True)
    return np.where(np.isfinite(nearest), nearest, 0)


def _nearer(nearest: np.ndarray, length: np.ndarray, hit: np.ndarray | bool) -> np.ndarray:
    return np.where(hit & (length > _LEAST) & (length < nearest), length, nearest)


def _walls(
    origin: np.ndarray, rays: np.ndarray, polygon: np.ndarray, thick: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of rays [N, 3] to the plane of each edge, and whether they meet the wall there, [N, edges]."""
    # Seen from above, origin + length * ray = corner + along * edge: two equations, by Cramer's rule.
    edge = np.roll(polygon, -1, axis=0) - polygon
    start = polygon - origin[:2]
    across = rays[:, None, 0] * edge[:, 1] - rays[:, None, 1] * edge[:, 0]
    length = (start[:, 0] * edge[:, 1] - start[:, 1] * edge[:, 0]) / across
    along = (start[:, 0] * rays[:, None, 1] - start[:, 1] * rays[:, None, 0]) / across
    inside = np.abs(origin[2] + length * rays[:, None, 2]) <= thick
    return length, inside & (along >= 0) & (along <= 1)


def _covered(points: np.ndarray, outline: Outline) -> np.ndarray:
    """bool [N]: where points [N, 2] are in the shape."""
    # A point is in a polygon if a ray from it to the right crosses an odd number of edges, each from (x0, y0)
    # to (x1, y1). At the height y an edge is at x0 + (x1 - x0) * (y - y0) / (y1 - y0).
    covered = np.zeros(len(points), bool)
    x, y = points[:, :1], points[:, 1:]
    for polygon, fill in outline:
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
        crossed = ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        covered = np.where(crossed.sum(axis=1) % 2 == 1, bool(fill), covered)
    return covered


def _colours(points: np.ndarray, solid: Solid) -> np.ndarray:
    """The colours of points [N, 3], in 0 to 255: waves that do not repeat."""
    place, rng = points / solid.extent, np.random.default_rng(solid.look)
    waves = rng.normal(size=(_WAVES, 3)) * np.geomspace(1.5, 9, _WAVES)[:, None]
    value = np.sin(place @ waves.T + rng.uniform(0, 6, _WAVES)) @ rng.normal(size=(_WAVES, 3)) / _WAVES**0.5
    return 127.5 + 110 * np.tanh(value)
