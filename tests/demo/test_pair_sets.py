"""The demo's solids, depths and pairs of views: true geometry, and every bin of a card filled."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clipjax.data.cards import load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.data.corrupted.depth import prepared_depth
from clipjax.demo.world.depths import BOTTOM, POST, SHAPE, TOP, depths, nearness
from clipjax.demo.world.files import RenderedSplit, write_once, write_set
from clipjax.demo.world.pair_files import SPAIR_FOCAL, SPAIR_SIZE, hidden_corners
from clipjax.demo.world.pair_sets import SETS, write_pair_sets
from clipjax.demo.world.scenes import SHAPES, Scene, mask
from clipjax.demo.world.solids import (
    Solid,
    angle_between,
    box,
    camera,
    corners,
    motion,
    prism,
    project,
    quaternion,
    rotation,
    view,
)
from clipjax.errors import DataError

SIZE, FOCAL = (96, 96), 200.0
FRONT = motion(np.eye(3), (0, 0, 200.0))
SCENE = Scene("star", "striped", "red", "night", 0.7, 0.5, 0.5, 0.0)


def points_of(depth: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Where each pixel's ray ends, in the solid's coordinates: [H, W, 3]."""
    height, width = depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    seen = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T * depth[..., None]
    return (seen - pose[:3, 3]) @ pose[:3, :3]


def to_outline(points: np.ndarray, solid: Solid) -> np.ndarray:
    """Distance of points [N, 2] to the nearest edge."""
    nearest = np.full(len(points), np.inf)
    for polygon, _ in solid.outline:
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0)):
            along = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(a + along[:, None] * (b - a) - points, axis=1))
    return nearest


@pytest.mark.parametrize("shape", ["star", "ring", "square", "key"])
def test_a_solid_from_the_front_is_its_shape(shape: str) -> None:
    picture, depth = view(SIZE, camera(FOCAL, SIZE), FRONT, prism(shape, half=40.0, thick=0.5))
    assert np.median(depth[depth > 0]) == pytest.approx(199.5)
    shape_of = dataclasses.replace(SCENE, shape=shape, size=2 * 40 * FOCAL / 200 / 96)
    drawn, seen = mask(shape_of, 96) > 0.5, depth > 0
    assert (drawn & seen).sum() / (drawn | seen).sum() > 0.9
    assert (picture[~seen] == 90).all()
    assert np.ptp(picture[seen]) > 60


@pytest.mark.parametrize("shape", ["star", "ring", "arrow"])
def test_what_a_camera_sees_is_on_the_surface(shape: str) -> None:
    solid, intrinsics = prism(shape, half=40.0, thick=15.0), camera(FOCAL, SIZE)
    pose = motion(rotation((0.3, 1, 0.1), 50), (3.0, -2.0, 200.0))
    _, depth = view(SIZE, intrinsics, pose, solid)
    points = points_of(depth, intrinsics, pose)[depth > 0]
    assert np.abs(points[:, 2]).max() < 15 + 1e-6
    faces = np.abs(np.abs(points[:, 2]) - 15) < 1e-6
    assert 0.1 < faces.mean() < 0.9
    assert to_outline(points[~faces, :2], solid).max() < 1e-6


def test_a_room_is_seen_from_inside() -> None:
    room, intrinsics = box((2.0, 1.5, 2.5)), camera(80.0, SIZE)
    pose = motion(rotation((0, 1, 0), 30), (0.2, 0.1, -0.3))
    _, depth = view(SIZE, intrinsics, pose, room)
    assert (depth > 0).all()
    assert np.abs(points_of(depth, intrinsics, pose) / (2.0, 1.5, 2.5)).max(-1) == pytest.approx(1.0)


def test_a_point_has_one_colour_in_two_views() -> None:
    solid, intrinsics = prism("cross", half=40.0, thick=15.0), camera(2 * FOCAL, (192, 192))
    poses = [motion(rotation((0, 1, 0), turn), (0, 0, 200.0)) for turn in (-15, 15)]
    (first, depth), (second, other) = (view((192, 192), intrinsics, pose, solid) for pose in poses)
    points = points_of(depth, intrinsics, poses[0])[depth > 0]
    pixels, away = project(points, intrinsics, poses[1])
    x, y = pixels.astype(int).T
    shown = np.abs(other[y, x] - away) < 0.5
    assert shown.mean() > 0.5
    assert np.abs(first[depth > 0][shown].astype(int) - second[y, x][shown]).mean() < 5
    assert not shown.all()


def test_cameras() -> None:
    turn = rotation((0.2, 1.0, 0.1), 40)
    w, *xyz = quaternion(turn)
    assert 2 * np.degrees(np.arccos(w)) == pytest.approx(40)
    assert np.cross(xyz, (0.2, 1.0, 0.1)) == pytest.approx(np.zeros(3))
    assert angle_between(motion(turn, (0, 0, 1)), motion(np.eye(3), (5, 0, 1))) == pytest.approx(40)
    pixels, away = project(np.array([[10.0, -20.0, 0.0]]), camera(FOCAL, SIZE), FRONT)
    assert (pixels[0].tolist(), away[0]) == ([48 + 10, 48 - 20], 200)


def test_corners_behind_a_solid_are_hidden() -> None:
    solid = prism("cross", half=45.0, thick=22.0)
    assert len(corners(solid)) == 24
    assert hidden_corners(solid, motion(np.eye(3), (0, 0, 170.0))) == list(range(12, 24))
    pose = motion(rotation((0, 1, 0), 40), (0, 0, 170.0))
    hidden = hidden_corners(solid, pose)
    assert 0 < len(hidden) < 20
    pixels, away = project(corners(solid), camera(SPAIR_FOCAL, SPAIR_SIZE), pose)
    _, depth = view(SPAIR_SIZE, camera(SPAIR_FOCAL, SPAIR_SIZE), pose, solid)
    for j in set(range(24)) - set(hidden):
        x, y = pixels[j].astype(int)
        assert np.abs(depth[y - 1 : y + 2, x - 1 : x + 2] - away[j]).min() < 11


def test_every_bin_has_pairs_and_the_cards_count_them(tmp_path: Path) -> None:
    write_pair_sets(tmp_path, 4, seed=0)
    for name in SETS:
        card = read_card(name.replace("-", "_"))
        assert check_dataset(tmp_path / name, card) == []
        matching, pairs = card.matching, load_dataset(card, tmp_path / name).manifest.pairs
        assert matching is not None
        assert pairs is not None
        assert len(set(pairs.clusters)) == 4
        values = pairs.columns[matching.by]
        if matching.groups:
            counts = Counter(group for groups in values for group in groups)
            assert all(counts[group] >= 4 for group in matching.groups)
            seen = [pairs.load(i).geometry["visible"].sum() for i in range(len(pairs))]
            assert np.mean(seen) > 5
        else:
            inside = [sum(low <= value < high for value in values) for low, high in matching.bins]
            assert min(inside) >= 4
            assert sum(inside) == len(values)


def test_depth_is_that_of_the_scene(tmp_path: Path) -> None:
    scene = dataclasses.replace(SCENE, blocked=0.2)
    near, covered = nearness(scene), mask(scene) > 0.5
    in_front = np.isclose(near, POST)
    assert in_front.any(axis=0).sum() in (8, 9, 10)  # 0.2 * 0.7 * 64 pixels
    assert near[covered & ~in_front] == pytest.approx(SHAPE * 0.7)
    ground = near[~covered & ~in_front]
    assert TOP <= ground.min() < ground.max() < BOTTOM < SHAPE * 0.7 < POST
    small = nearness(dataclasses.replace(scene, size=0.3))
    assert small[32, 40] < near[32, 40], "a small shape is far"
    val = RenderedSplit("val", "varied", 12, class_folders=True).image_set(0)
    write_set(tmp_path, images := depths(val), progress=False)
    for picture in images.pictures:
        depth = prepared_depth(tmp_path / picture.path, picture.path, (64, 64), "inverse")
        middle = 1 / nearness(picture.scene)[4:-4, 4:-4]  # 224 of 256 pixels
        assert (depth.min(), depth.max()) == pytest.approx((middle.min(), middle.max()), rel=0.02)


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    filled: list[Path] = []

    def fill(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("a")
        filled.append(folder)
        if len(filled) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_once(tmp_path, "set", {"n": (1, 2)}, 0, fill)
    for _ in range(2):
        write_once(tmp_path, "set", {"n": (1, 2)}, 0, fill)
    assert len(filled) == 2, "an interrupted one is filled anew"
    with pytest.raises(DataError, match="set holds a world of other settings"):
        write_once(tmp_path, "set", {"n": (1, 3)}, 0, fill)


def test_every_shape_is_a_solid() -> None:
    for shape in SHAPES:
        _, depth = view((24, 24), camera(50.0, (24, 24)), FRONT, prism(shape, 40.0, 10.0))
        assert (depth > 0).sum() > 20, shape
