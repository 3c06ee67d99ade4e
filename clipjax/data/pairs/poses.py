"""Camera poses: 4 x 4 motions, quaternions, and the angle between two views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST = 1e6  # numbers of poses, focal lengths and places in images are refused from here on
_NEAR = 1e-3  # how far a pose written with few digits may be from a rotation
_ROUNDING = 1e-4  # how far the trace of a rotation may be outside -1..3


def motion_of(quaternion: Sequence[float], translation: Sequence[float]) -> np.ndarray:
    """The matrix of a rotation and then a translation: float64 [4, 4].

    Args:
        quaternion: w, x, y, z; need not have length 1.

    Raises ValueError for impossible numbers, and for a quaternion of zeros.
    """
    q = np.asarray(quaternion, np.float64)
    # Here and below `not ... <` refuses NaN, too.
    if not np.abs(q).max() < LARGEST or (square := float(q @ q)) <= 0:
        raise ValueError(f"the quaternion {q.tolist()} is not a rotation")
    # The rotation by a unit quaternion has entries such as 1 - 2(yy + zz) and 2(xy - zw): at a length of
    # sqrt(2) each product has the 2 already.
    w, x, y, z = q * np.sqrt(2 / square)
    motion = np.eye(4)
    motion[:3, :3] = [
        [1 - y * y - z * z, x * y - z * w, x * z + y * w],
        [x * y + z * w, 1 - x * x - z * z, y * z - x * w],
        [x * z - y * w, y * z + x * w, 1 - x * x - y * y],
    ]
    motion[:3, 3] = translation
    if not np.abs(motion).max() < LARGEST:
        raise ValueError(f"the translation {list(translation)} is not a place of a camera")
    return motion


def check_motion(motion: np.ndarray) -> None:
    """Raises ValueError unless [4, 4], a rotation and a translation."""
    if motion.shape != (4, 4):
        raise ValueError(f"a pose has 4 x 4 numbers, not {' x '.join(map(str, motion.shape))}")
    if not np.isfinite(motion).all():
        raise ValueError("the pose has a number that is not finite: its camera was not located")
    rotation = np.clip(motion[:3, :3], -2, 2)
    is_rotation = np.abs(rotation @ rotation.T - np.eye(3)).max() <= _NEAR and np.linalg.det(rotation) > 0
    last = np.abs(motion[3] - (0, 0, 0, 1)).max()
    if not is_rotation or last > _NEAR or np.abs(motion).max() > LARGEST:
        raise ValueError("the pose is not a rotation with a translation")


def angle_of(motion: np.ndarray) -> float:
    """The angle of a motion's rotation in degrees, 0 to 180, with four decimals.

    The decimals make the number, which is part of a digest, the same on every machine.

    Raises ValueError for a trace that no rotation has.
    """
    trace = float(np.trace(motion[:3, :3].astype(np.float64)))
    if not -1 - _ROUNDING <= trace <= 3 + _ROUNDING:
        raise ValueError(f"a matrix with trace {trace:.6g} is not a rotation: it is outside -1..3")
    return round(float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))), 4)
