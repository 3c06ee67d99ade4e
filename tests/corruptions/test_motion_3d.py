"""Motion blur against loops over points and pixels, with the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _numpy_motion as by_hand
import jax
import numpy as np
import pytest
from _long import mostly_long

from clipjax.corruptions.corruption import constants_of, find_corruption, image_keys
from clipjax.corruptions.filling import filled_holes
from clipjax.corruptions.kinds import motion_3d
from clipjax.corruptions.kinds.motion_3d import Move
from clipjax.corruptions.runner import wrapped

SIZE = 32
FRAMES = 5
blurred = jax.jit(motion_3d.blurred, static_argnums=3)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A near square in front of a tilted wall."""
    rng = np.random.default_rng(1)
    image = rng.uniform(0.2, 1, (SIZE, SIZE, 3)).astype(np.float32)
    y, x = np.mgrid[:SIZE, :SIZE]
    depth = (0.3 + 0.15 * x / SIZE + 0 * y).astype(np.float32)
    depth[10:20, 12:22] = 0.08
    return image, depth


@pytest.mark.parametrize(
    "move",
    mostly_long([((70.0, -60.0, 1.0),), ((-20.0, 10.0, 0.55),)], keep=[(-20.0, 10.0, 0.55)]),
    ids=["xy", "z"],
)
def test_motion_blur(move: tuple[float, float, float]) -> None:
    image, depth = scene()
    ours = np.asarray(blurred(image, depth, Move(*map(np.float32, move)), FRAMES))
    expected = by_hand.blur(image, depth, *move, FRAMES)
    apart = np.abs(ours * 255 - expected)
    assert apart.mean() < 0.02
    assert (apart > 1.01).mean() < 0.0005
    assert np.abs(expected - image * 255).mean() > 20


def test_holes_are_filled_from_the_deeper_end_and_open_ones_stay() -> None:
    rng = np.random.default_rng(2)
    image = rng.uniform(0, 1, (SIZE, SIZE, 3)).astype(np.float32)
    depth = rng.uniform(1, 9, (SIZE, SIZE)).astype(np.float32)
    depth[rng.uniform(0, 1, depth.shape) < 0.4] = 0
    depth[8:20, 9:16] = 0
    depth[:, :5] = 0  # open to the border
    image[depth == 0] = 0
    ours = np.asarray(jax.jit(filled_holes)(image, depth))
    np.testing.assert_array_equal(ours, by_hand.fill(image, depth))
    assert (ours[10:18, 10:15] > 0).all()
    assert (ours[:, 0] == 0).all()


def test_draws_are_in_their_ranges_and_reach_both_ends() -> None:
    keys = wrapped(image_keys("xy_motion_blur", [str(i) for i in range(4000)]))
    xy, z = (
        jax.tree.map(np.asarray, jax.vmap(draw)(keys)) for draw in (motion_3d.sideways, motion_3d.inwards)
    )
    assert set(xy.right) == {*range(-75, -50), *range(50, 75)}
    assert (xy.down.min(), xy.down.max()) == (-75, 74)
    assert (z.right.min(), z.right.max(), z.down.min(), z.down.max()) == (-30, 29, -30, 29)
    assert 0.5 <= z.depth.min() < 0.501
    assert 0.599 < z.depth.max() < 0.6


@pytest.mark.parametrize(
    ("name", "draw"),
    mostly_long(
        [("xy_motion_blur", motion_3d.sideways), ("z_motion_blur", motion_3d.inwards)], keep=["z_motion_blur"]
    ),
)
def test_a_kind_blurs_each_image_by_its_own_draw(name: str, draw: Callable[[Any], Move]) -> None:
    image, depth = scene()
    kind, keys = find_corruption(name), wrapped(image_keys(name, ["a", "b"]))
    extra = {"depth": np.stack([depth, depth])}
    constants = {**constants_of(name, 1), "frames": FRAMES}
    both = np.asarray(kind.apply(np.stack([image, image]), keys, constants, extra))
    for ours, key in zip(both, keys):
        np.testing.assert_array_equal(ours, blurred(image, depth, draw(key), FRAMES))
    assert (both[0] != both[1]).any()
    assert "inpainting" in kind.approximate


def test_every_frame_is_moved_by_half_a_pixel() -> None:
    frame = np.array([[10, 20], [31, 40]], np.int32)[..., None]
    np.testing.assert_array_equal(motion_3d.half_pixel(frame)[..., 0], [[25, 30], [36, 40]])
