"""ScanNet's pairs against an independent reading of the protocol, and against the room's true geometry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _long import mostly_long
from _pair_worlds import (
    ROOM,
    pairs_of,
    refusal_of,
    save,
    scannet_pose,
    small_card,
    with_large_numbers,
    write_scannet,
)
from PIL import Image

from clipjax.data.check import check_dataset
from clipjax.data.pairs import scannet
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.demo.world.pair_files import SCANNET_K
from clipjax.demo.world.solids import rotation
from clipjax.errors import DataError

FIRST = "pair scene0707_00/0-15: "


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_scannet(tmp_path_factory.mktemp("scannet") / "data")


@pytest.fixture(scope="module")
def far_world(world, tmp_path_factory) -> Path:
    """Depths on both sides of 32,767 millimetres."""
    return with_large_numbers(world, tmp_path_factory.mktemp("far") / "data", 14)


@pytest.fixture
def copy(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "data"))


def read(root: Path, folder: Path) -> PairSet:
    return pairs_of("scannet_pairs", root, folder)


def reading(root: Path, scene: str, frames: tuple[int, int]) -> Pair:
    """The protocol, point by point: pictures of 64 x 48 pixels, points on 16 x 12."""
    images, points, poses = [], [], []
    k = np.load(root / "intrinsics.npz")[scene]
    for frame in frames:
        image = Image.open(root / scene / f"color/{frame}.jpg").resize((64, 48), Image.Resampling.BILINEAR)
        images.append(
            (np.asarray(image).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        )
        depth = np.asarray(Image.open(root / scene / f"depth/{frame}.png")).astype(np.uint16).astype(float)
        xyz = np.zeros((12, 16, 3))
        for v in range(12):
            for u in range(16):
                metres = depth[4 * v, 4 * u] / 1000
                x = (u + 0.5 - k[0, 2] / 4) / (k[0, 0] / 4)
                y = (v + 0.5 - k[1, 2] / 4) / (k[1, 1] / 4)
                xyz[v, u] = metres * x, metres * y, metres
        points.append(xyz)
        rows = (root / scene / f"pose/{frame}.txt").read_text().split("\n")
        poses.append(np.array([[float(each) for each in row.split(" ")] for row in rows if row]))
    geometry = {
        "points": np.stack(points),
        "intrinsics": np.array([[k[0, 0] / 4, 0, k[0, 2] / 4], [0, k[1, 1] / 4, k[1, 2] / 4], [0, 0, 1]]),
        "motion": np.linalg.inv(poses[1]) @ poses[0],
    }
    return Pair(np.stack(images), geometry)


def is_same(ours: Pair, theirs: Pair) -> bool:
    off = {key: np.abs(ours.geometry[key] - value).max() for key, value in theirs.geometry.items()}
    exact = bool((ours.images == theirs.images).all())
    return exact and off["points"] < 1e-5 and off["motion"] < 1e-6 and off["intrinsics"] < 1e-5


def test_a_pair_follows_the_protocol(world, far_world, tmp_path):
    for root in (world, far_world):
        pairs = read(root, tmp_path)
        assert pairs.ids == tuple(
            f"{s}/{p}" for s in ("scene0707_00", "scene0708_01") for p in ("0-15", "15-30")
        )
        assert pairs.clusters == ("scene0707_00",) * 2 + ("scene0708_01",) * 2
        assert pairs.columns == {"angle": [20.0] * 4}
        assert is_same(pairs.load(1), reading(root, "scene0707_00", (15, 30)))


def test_points_lie_on_the_room_and_meet_under_the_motion(world, tmp_path):
    """A point is read at the first of four pixels, and its ray is that of the middle of them."""
    geometry = read(world, tmp_path).load(0).geometry

    def off(view: int, to_camera_1: np.ndarray) -> float:
        points = geometry["points"][view].reshape(-1, 3)
        in_room = np.c_[points, np.ones(len(points))] @ (scannet_pose(1) @ to_camera_1).T
        return float(np.median(np.abs(np.abs(in_room[:, :3] / ROOM).max(-1) - 1)))

    assert off(0, geometry["motion"]) < 0.03
    assert off(1, np.eye(4)) < 0.03
    assert min(off(0, np.eye(4)), off(0, np.linalg.inv(geometry["motion"]))) > 0.1


WRONG: dict[str, tuple[object, str, Callable]] = {
    "camera inverted": (
        scannet.ScanNetPairs,
        "_pose",
        lambda f: lambda self, i, name: np.linalg.inv(f(self, i, name)),
    ),
    "signed depth": (
        scannet,
        "decode_depth",
        lambda f: lambda *args: f(*args).astype(np.int16).astype(np.int32),
    ),
    "depth in millimetres": (scannet.ScanNetPairs, "_depth", lambda f: lambda *args: 1000 * f(*args)),
    "full-size intrinsics": (
        scannet,
        "unproject",
        lambda f: lambda depth, k: f(depth, np.diag([4.0, 4.0, 1.0]) @ k),
    ),
    "no half pixels": (
        scannet,
        "unproject",
        lambda f: lambda depth, k: f(depth, k + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])),
    ),
    "ImageNet's mean": (
        scannet.ScanNetPairs,
        "normalised",
        lambda f: lambda self, pixels: f(self, pixels) + np.float32(0.1),
    ),
}


@pytest.mark.parametrize("mistake", mostly_long(WRONG, keep=["no half pixels"]))
def test_a_mistake_is_seen(far_world, tmp_path, monkeypatch, mistake):
    owner, name, make = WRONG[mistake]
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    assert not is_same(read(far_world, tmp_path).load(1), reading(far_world, "scene0707_00", (15, 30)))


POSE = "scene0707_00/pose/15.txt"
DEPTH = "scene0707_00/depth/15.png"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no depth": (lambda root: (root / DEPTH).unlink(), f"{DEPTH} does not exist"),
    "no pose": (lambda root: (root / POSE).unlink(), f"{POSE} does not exist"),
    "no image": (lambda root: (root / "scene0707_00/color/15.jpg").unlink(), "color/15.jpg: cannot be read"),
    "not located": (
        lambda root: (root / POSE).write_text("-inf -inf -inf -inf\n" * 4),
        f"{POSE}: the pose has a number that is not finite",
    ),
    "a mirror": (
        lambda root: np.savetxt(root / POSE, np.diag([1, 1, -1, 1.0])),
        f"{POSE}: the pose is not a rotation with a translation",
    ),
    "scaled": (
        lambda root: np.savetxt(root / POSE, np.diag([2, 2, 2, 1.0])),
        f"{POSE}: the pose is not a rotation with a translation",
    ),
    "three rows": (
        lambda root: np.savetxt(root / POSE, np.eye(4)[:3]),
        f"{POSE}: a pose has 4 x 4 numbers, not 3 x 4",
    ),
    "words": (
        lambda root: (root / POSE).write_text("a b"),
        f"{POSE}: could not convert string to",
    ),
    "all zeros": (
        lambda root: save(root / DEPTH, np.zeros((48, 64), np.uint16)),
        f"{DEPTH}: all depths are 0",
    ),
    "no point": (
        lambda root: save(root / DEPTH, np.eye(48, 64, k=1, dtype=np.uint16) * 900),
        "image 1 has no point with a depth on the grid",
    ),
    "another size": (
        lambda root: save(root / DEPTH, np.ones((96, 128), np.uint16)),
        f"{DEPTH} has 128 x 96 pixels; expected 64 x 48",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_pair_is_one_sentence(copy, tmp_path, damage):
    change, sentence = DAMAGED[damage]
    change(copy)
    problems = check_dataset(copy, small_card("scannet_pairs", tmp_path))
    assert len(problems) == 2, "frame 15 is in two pairs"
    assert problems[0].startswith(FIRST)
    assert sentence in problems[0]
    with pytest.raises(DataError) as raised:
        read(copy, tmp_path).load(0)
    assert str(raised.value) == problems[0]


def _names(root: Path, **arrays) -> None:
    with np.load(root / "test.npz") as file:
        kept = dict(file)
    np.savez(root / "test.npz", **{key: value for key, value in (kept | arrays).items() if value is not None})


WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda root: (root / "test.npz").unlink(), "test.npz does not exist; give the folder"),
    "no npz": (lambda root: (root / "test.npz").write_text("x"), "test.npz is not an npz of arrays"),
    "no names": (lambda root: _names(root, name=None), "expected the array 'name' of 4 numbers per pair"),
    "fewer motions": (lambda root: _names(root, rel_pose=np.ones((1, 12))), "4 names and 1 motions"),
    "no rotation": (
        lambda root: _names(root, rel_pose=np.full((4, 12), 2.0)),
        "test.npz: the motion of scene0707_00/0-15: a matrix with trace 6 is not a rotation",
    ),
    "names of floats": (lambda root: _names(root, name=np.ones((4, 4))), "a name has whole numbers from 0"),
    "twice": (
        lambda root: _names(root, name=np.array([[707, 0, 0, 15]] * 4, np.uint16)),
        "the pair scene0707_00/0-15 is listed twice",
    ),
    "no matrix": (
        lambda root: np.savez(root / "intrinsics.npz", scene0707_00=SCANNET_K),
        "intrinsics.npz: expected a 3 x 3 matrix for scene0708_01",
    ),
    "focal length 0": (
        lambda root: np.savez(root / "intrinsics.npz", scene0707_00=np.zeros((3, 3))),
        "the matrix of scene0707_00 is not that of a camera",
    ),
    "no image at all": (
        lambda root: [path.unlink() for path in root.glob("*/color/*")],
        "has none of the 6 images of its pairs, such as scene0707_00/color/0.jpg",
    ),
}


@pytest.mark.parametrize("damage", WHOLE)
def test_a_data_set_that_is_refused(copy, tmp_path, damage):
    change, sentence = WHOLE[damage]
    change(copy)
    assert sentence in refusal_of("scannet_pairs", copy, tmp_path)


def test_bins_and_errors_go_by_one_motion(copy, tmp_path):
    """Another pair's motion in test.npz, 20 degrees as well, is not seen; one of 25 degrees is."""
    with np.load(copy / "test.npz") as file:
        motions = file["rel_pose"].copy()
    turned = rotation((0.0, 1.0, 0.0), 25.0)
    motions[0] = np.concatenate([turned, np.zeros((3, 1))], axis=1).ravel()
    _names(copy, rel_pose=motions)
    sentence = "pair scene0707_00/0-15: its poses are 20 degrees apart, and test.npz says 25"
    with pytest.raises(DataError) as raised:
        read(copy, tmp_path).load(0)
    assert str(raised.value) == sentence
    assert check_dataset(copy, small_card("scannet_pairs", tmp_path)) == [sentence]


def test_fewer_pairs_than_the_card_has(world, tmp_path):
    path = small_card("scannet_pairs", tmp_path)
    path.write_text("pairs = 1500\n" + path.read_text())
    [problem] = check_dataset(world, path)
    assert problem.endswith("lists 4 pairs; ScanNet pairs has 1500")
