"""Errors, recalls and bins: by hand, and against a float64 NumPy reading of probe3d's protocol."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from clipjax.metrics import correspondence_errors as e
from clipjax.metrics.correspondence import Matches


def single(values):
    return np.array(values, np.float32)


def matches(query, key, there=None):
    there = [True] * len(query) if there is None else there
    indices = (jnp.array(each, jnp.int32) for each in (query, key))
    return Matches(*indices, weight=jnp.zeros(len(query)), there=jnp.array(there))


def pair(seed=0):
    """Points in front of two cameras, the second turned by 40 degrees: points, intrinsics, motion."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-0.5, -0.5, 1], [0.5, 0.5, 2], (2, 5, 6, 3))
    points[0, 0, 0] = 0  # no depth
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0, 0.7, 0.1]).as_matrix()
    motion[:3, 3] = [-0.8, 0.05, 0.3]
    return tuple(x.astype(np.float32) for x in (points, np.diag([500, 480, 1]), motion))


def read(found, points, intrinsics, motion):
    """A loop over the matches."""
    points, intrinsics, motion = (each.astype(np.float64) for each in (points, intrinsics, motion))
    metres, pixels = [], []
    for query, key in zip(found.query, found.key):
        moved = motion[:3, :3] @ points[0].reshape(-1, 3)[query] + motion[:3, 3]
        target = points[1].reshape(-1, 3)[key]
        metres.append(np.sqrt(((moved - target) ** 2).sum()))
        seen, wanted = intrinsics @ moved, intrinsics @ target
        off = seen[:2] / max(seen[2], 1e-9) - wanted[:2] / max(wanted[2], 1e-9)
        pixels.append(np.hypot(*off))
    return np.array(metres), np.array(pixels)


def test_errors_are_the_readings():
    rng = np.random.default_rng(1)
    found = matches(rng.integers(1, 30, 50), rng.integers(0, 30, 50))
    points, intrinsics, motion = pair()
    ours = [np.asarray(each) for each in e.match_errors(found, points, intrinsics, motion)]
    metres, pixels = read(found, points, intrinsics, motion)
    np.testing.assert_allclose(ours[0], metres, atol=1e-5)
    np.testing.assert_allclose(ours[1], pixels, rtol=1e-5)
    swapped = found._replace(query=found.key, key=found.query)
    for wrong in (
        read(found, points, intrinsics, np.linalg.inv(motion)),
        read(found, points, intrinsics * [[4], [4], [1]], motion),
        read(swapped, points[::-1], intrinsics, motion),
    ):
        assert max(np.median(abs(ours[0] - wrong[0])), np.median(abs(ours[1] - wrong[1]))) > 1e-2


def test_errors_by_hand():
    """The second camera is 0.1 m to the left; the match is 0.03 m too high and 0.04 m too deep."""
    points = np.zeros((2, 1, 2, 3), np.float32)
    points[0, 0, 1] = [0, 0, 1]
    points[1, 0, 0] = [0.1, 0.03, 1.04]
    motion = np.eye(4, dtype=np.float32)
    motion[0, 3] = 0.1
    focal = np.diag(single([100, 100, 1]))
    metres, pixels = e.match_errors(matches([1, 1], [0, 0], [True, False]), points, focal, motion)
    np.testing.assert_allclose(metres, [0.05, np.nan], atol=1e-6)
    np.testing.assert_allclose(pixels, [np.hypot(10 - 10 / 1.04, 3 / 1.04), np.nan], rtol=1e-5)


def test_a_point_behind_the_camera_is_far_off():
    """Its depth counts as 1e-9 m: no mirrored point near the right one."""
    points = single([[[[0.01, 0, -1]]], [[[0.01, 0, 1]]]])
    metres, pixels = e.match_errors(
        matches([0], [0]), points, np.diag(single([100, 100, 1])), np.eye(4, dtype=np.float32)
    )
    np.testing.assert_allclose(metres, 2)
    np.testing.assert_allclose(pixels, 1e9, rtol=1e-5)


def test_the_principal_point_has_no_effect():
    found = matches([3, 4, 5], [6, 7, 8])
    points, intrinsics, motion = pair()
    moved = intrinsics.copy()
    moved[:2, 2] = 256
    np.testing.assert_allclose(
        *(e.match_errors(found, points, each, motion)[1] for each in (intrinsics, moved)), rtol=1e-4
    )


def test_keypoint_errors_by_hand():
    """A box of half the side: 0.03 and 0.04 of the side are a tenth of it, the threshold, so not right."""
    places = single([[0.53, 0.54], [0.5, 0.5], [0.9, 0.9]])
    keypoints = single([[400, 400], [400, 432], [0, 0]])
    errors = e.keypoint_errors(places, keypoints, np.array([True, True, False]), 800.0, 0.5)
    np.testing.assert_allclose(errors, [0.1, 0.08, np.nan], atol=1e-6)


def test_recalls_by_hand():
    nan = np.nan
    errors = single([[1, 2, 3, 4], [2, 2, nan, nan], [nan] * 4])
    np.testing.assert_array_equal(e.recall_of_pairs(errors, [2, 4.5]), [[0.25, 1], [0, 1], [nan, nan]])


def test_a_threshold_is_strict():
    """Also in float32, where the errors are: 0.02 m is not below 0.02 m."""
    errors = single([[0.02, np.nextafter(np.float32(0.02), np.float32(0))]])
    assert e.recall_of_pairs(errors, [0.02]).tolist() == [[0.5]]


def test_bins_by_hand():
    edges = [[0, 15], [15, 30], [30, 60], [60, 180]]
    members = e.in_bins(np.array([0, 14.9, 15, 30, 59, 180, 200, np.nan]), edges)
    assert [np.flatnonzero(each).tolist() for each in members] == [[0, 1], [2], [3, 4], []]
