"""What all data sets of pairs share: the table [matching], the manifest, the digest, samples."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from _pair_worlds import small_card, write_navi, write_scannet, write_spair
from PIL import Image
from scipy.spatial.transform import Rotation

from clipjax.data.cards import Dataset, load_dataset, read_card
from clipjax.data.manifest import Manifest
from clipjax.data.pack import pack
from clipjax.data.pairs.depth import decode_depth
from clipjax.data.pairs.matching import Curve, Matching
from clipjax.data.pairs.poses import angle_of, motion_of
from clipjax.errors import DataError, UsageError
from clipjax.storage.records import read

WRITERS = {"navi": write_navi, "scannet_pairs": write_scannet, "spair71k": write_spair}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("worlds")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def load(name: str, root: Path, folder: Path) -> Dataset:
    return load_dataset(small_card(name, folder), root)


def digest(manifest: Manifest) -> str:
    assert manifest.pairs is not None
    return manifest.pairs.digest


# probe3d's protocol (evals/ at a1f1464): a card with 500 matches or another threshold would pass unnoticed.
PROTOCOL = {
    "navi": {
        "kind": "geometric",
        "by": "angle",
        "size": (512, 512),
        "normalisation": "imagenet",
        "features": "bicubic",
        "grid": (128, 128),
        "keep": 1000,
        "thresholds_3d": (0.01, 0.02, 0.05),
        "thresholds_2d": (5, 25, 50),
        "curve": Curve("3d", 0.02),
        "bins": ((0, 30), (30, 60), (60, 90), (90, 120)),
    },
    "scannet_pairs": {
        "kind": "geometric",
        "by": "angle",
        "size": (480, 640),
        "normalisation": "half",
        "features": "bilinear",
        "grid": (120, 160),
        "keep": 1000,
        "thresholds_3d": (),
        "thresholds_2d": (5, 10, 20),
        "curve": Curve("2d", 10),
        "bins": ((0, 15), (15, 30), (30, 60), (60, 180)),
    },
    "spair71k": {
        "kind": "keypoints",
        "by": "groups",
        "keypoints": 30,
        "size": (800, 800),
        "normalisation": "imagenet",
        "features": "corners",
        "thresholds_pck": (0.1,),
        "curve": Curve("pck", 0.1),
        "groups": ("0", "1", "2", "all"),
    },
}
OPTIONS = {
    "navi": {"pairs": "wild_set", "crop": True},
    "scannet_pairs": {},
    "spair71k": {"split": "test", "per_draw": 200, "seed": 20},
}


@pytest.mark.parametrize("name", PROTOCOL)
def test_the_cards_are_the_protocol(name):
    card = read_card(name)
    assert {key: getattr(card.matching, key) for key in PROTOCOL[name]} == PROTOCOL[name]
    assert card.options == OPTIONS[name]


@pytest.mark.parametrize("name", WRITERS)
def test_the_manifest_has_each_image_once_and_a_sample_draws_pairs(worlds, tmp_path, name):
    manifest = load(name, worlds[name], tmp_path).manifest
    pairs = manifest.pairs
    assert pairs is not None
    named = {image for i in range(len(pairs)) for image in pairs.image_ids(i)}
    assert set(manifest.ids) == named
    assert all(manifest.open(i)[:2] == b"\xff\xd8" for i in range(len(manifest)))
    one, two = manifest.sample(1), manifest.sample(2)
    assert one.pairs is not None
    assert two.pairs is not None
    assert (len(one.pairs), len(two.pairs)) == (1, 2)
    assert set(one.pairs.ids) < set(two.pairs.ids)
    assert set(one.ids) == set(one.pairs.image_ids(0))
    assert one.selection == f"random sample of 1 of {len(pairs)} pairs, seed 0"
    at = pairs.ids.index(one.pairs.ids[0])
    for ours, theirs in zip(one.pairs.load(0).geometry.values(), pairs.load(at).geometry.values()):
        np.testing.assert_array_equal(ours, theirs)
    assert one.pairs.columns == {key: [values[at]] for key, values in pairs.columns.items()}
    assert manifest.sample(len(pairs)) is manifest


@pytest.mark.parametrize("name", WRITERS)
def test_the_digest_of_pairs(worlds, tmp_path, name):
    root = Path(shutil.copytree(worlds[name], tmp_path / "data"))
    manifest = load(name, root, tmp_path).manifest
    before, whole = digest(manifest), manifest.digest
    assert digest(load(name, worlds[name], tmp_path / "other").manifest) == before, "a copy has the same"
    assert digest(pickle.loads(pickle.dumps(manifest))) == before
    assert dataclasses.replace(manifest, pairs=None).digest != whole
    assert manifest.pairs is not None
    other_order = manifest.pairs.select(range(len(manifest.pairs))[::-1])
    assert other_order.digest != before
    path = root / next(file for world, file in BESIDE if world == name)
    path.write_bytes(path.read_bytes() + b" ")
    changed = digest(load(name, root, tmp_path).manifest)
    path.unlink()
    assert len({before, changed, digest(load(name, root, tmp_path).manifest)}) == 3


# Files beside the images; a data set is read without the first one of each world.
BESIDE = [
    ("navi", "box/wild_set/depth/000.png"),
    ("navi", "box/wild_set/annotations.json"),
    ("scannet_pairs", "scene0707_00/pose/0.txt"),
    ("scannet_pairs", "scene0707_00/depth/15.png"),
    ("scannet_pairs", "intrinsics.npz"),
    ("spair71k", "ImageAnnotation/bus/2008_000000.json"),
    ("spair71k", "PairAnnotation/test/000000-2008_000000-2008_000001:bus.json"),
]


@pytest.mark.parametrize(("name", "file"), BESIDE)
def test_every_file_of_a_pair_is_in_the_digest(worlds, tmp_path, name, file):
    root = Path(shutil.copytree(worlds[name], tmp_path / "data"))
    before = load(name, root, tmp_path).manifest
    pairs, whole = digest(before), before.digest
    path = root / file
    path.write_bytes(path.read_bytes() + b" ")
    after = load(name, root, tmp_path).manifest
    assert digest(after) != pairs
    assert after.digest != whole
    assert after.images_digest == before.images_digest


def test_how_a_pair_is_prepared_is_part_of_the_digest_and_how_it_is_counted_is_not(worlds, tmp_path):
    base = load("navi", worlds["navi"], tmp_path).manifest
    digests = {digest(base)}
    for change in ({"size": [32, 32]}, {"grid": [32, 32]}, {"normalisation": "half"}):
        card = small_card("navi", tmp_path, None, **change)
        digests.add(digest(load_dataset(card, worlds["navi"]).manifest))
    digests.add(digest(load_dataset(small_card("navi", tmp_path, {"crop": False}), worlds["navi"]).manifest))
    assert len(digests) == 5
    counted = load_dataset(small_card("navi", tmp_path, keep=500, bins=[[0, 90]]), worlds["navi"])
    assert digest(counted.manifest) == digest(base)


def test_images_that_are_selected_keep_their_pairs(worlds, tmp_path):
    manifest = load("navi", worlds["navi"], tmp_path).manifest
    chosen = manifest.select([i for i, name in enumerate(manifest.ids) if "002" not in name])
    assert chosen.pairs is not None
    assert chosen.pairs.ids == (
        "box/wild_set/000 box/wild_set/001",
        "crate/wild_set/000 crate/wild_set/001",
    )


def test_an_absent_image_is_not_a_row_and_its_pair_is_refused(worlds, tmp_path):
    root = Path(shutil.copytree(worlds["navi"], tmp_path / "data"))
    (root / "box/wild_set/images/000.jpg").unlink()
    manifest = load("navi", root, tmp_path).manifest
    assert "box/wild_set/images/000.jpg" not in manifest.ids
    assert len(manifest) == 5
    assert manifest.pairs is not None
    assert len(manifest.pairs) == 4
    assert len(manifest.digest) == 64
    with pytest.raises(DataError, match=r"^pair box/wild_set/000 .*images/000.jpg: cannot be read"):
        manifest.pairs.load(0)
    with pytest.raises(UsageError, match="has pairs"):
        pack(manifest, tmp_path / "packed", "webdataset")


BASE = {
    "kind": "geometric",
    "size": [64, 64],
    "normalisation": "imagenet",
    "features": "bicubic",
    "grid": [16, 16],
    "keep": 10,
    "thresholds_3d": [0.1],
    "curve": {"metric": "3d", "threshold": 0.1},
    "by": "angle",
    "bins": [[0, 30], [30, 60]],
}
WRONG = {
    "not one of 'imagenet', 'half'": {"normalisation": "clip"},
    "must be a height and a width": {"size": [0, 64]},
    "is not one of 'bicubic', 'bilinear', 'corners'": {"features": "nearest"},
    "must be a multiple of grid": {"grid": [15, 16]},
    "needs grid, and keep": {"keep": 0},
    "are for kind = 'keypoints'": {"features": "corners"},
    "give bins .* or groups": {"groups": ["all"]},
    r"low < high, not \[\[30.0, 0.0\]\]": {"bins": [[30, 0]]},
    "in order and apart": {"bins": [[0, 40], [30, 60]]},
    "thresholds must be above 0": {"thresholds_3d": [0.1, 0]},
    "the curve's threshold 0.2 is not in its thresholds": {"curve": {"metric": "3d", "threshold": 0.2}},
    "are for kind = 'geometric'": {"kind": "keypoints"},
    "unknown key 'ratio'": {"ratio": 1},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_matching_is_refused(message):
    assert read(Matching, BASE, "card").grid == (16, 16)
    with pytest.raises(DataError, match=message):
        read(Matching, BASE | WRONG[message], "card")


def test_keypoints_need_their_number():
    geometric = ("grid", "keep", "thresholds_3d")
    keypoints = {key: value for key, value in BASE.items() if key not in geometric} | {"kind": "keypoints"}
    with pytest.raises(DataError, match="needs features = 'corners', and keypoints"):
        read(Matching, keypoints, "card")


def test_a_card_has_the_table_exactly_where_its_reader_has_pairs(worlds, tmp_path):
    path = small_card("navi", tmp_path)
    text = path.read_text()
    path.write_text(text[: text.index("[matching]")])
    with pytest.raises(DataError, match=r"the reader 'navi' needs the table \[matching\]"):
        read_card(path)
    matching = text[text.index("[matching]") :]
    path.write_text('name = "x"\ntitle = "X"\nreader = "folder"\n' + matching)
    with pytest.raises(DataError, match=r"the reader 'folder' has no pairs: leave \[matching\] out"):
        read_card(path)
    spair = small_card("spair71k", tmp_path).read_text()
    path.write_text(text[: text.index("[matching]")] + spair[spair.index("[matching]") :])
    with pytest.raises(DataError, match=r"has geometric pairs, and the card's \[matching\] is for keypoints"):
        load_dataset(path, worlds["navi"])
    with pytest.raises(DataError, match="has by = 'viewpoint'; known: angle, listed_angle"):
        load_dataset(small_card("navi", tmp_path, by="viewpoint"), worlds["navi"])


def test_poses_by_hand():
    """A quarter turn about z takes x to y; the quaternion's length does not matter."""
    motion = motion_of([3, 0, 0, 3], [1, 2, 3])
    np.testing.assert_allclose(motion @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    assert angle_of(motion) == 90
    assert angle_of(np.eye(4)) == 0
    assert angle_of(motion_of([0, 1, 0, 0], [0, 0, 0])) == 180
    with pytest.raises(ValueError, match="is not a place of a camera"):
        motion_of([1, 0, 0, 0], [np.inf, 0, 0])


def test_angles_are_scipys():
    for vector in np.random.default_rng(0).normal(size=(20, 3)):
        turn = Rotation.from_rotvec(vector)
        assert angle_of(turn.as_matrix()) == pytest.approx(np.degrees(turn.magnitude()), abs=1e-4)
    assert angle_of(np.eye(3) * (1 + 3e-5)) == 0  # rounding


@pytest.mark.parametrize("scale", [1.001, -1, np.nan])
def test_a_trace_that_no_rotation_has(scale):
    with pytest.raises(ValueError, match=r"a matrix with trace \S+ is not a rotation"):
        angle_of(scale * np.eye(3))


def test_numbers_of_a_depth_picture_are_unsigned(tmp_path):
    Image.fromarray(np.array([[0, 1], [32768, 65535]], np.uint16)).save(tmp_path / "depth.png")
    values = decode_depth((tmp_path / "depth.png").read_bytes(), "depth.png")
    assert values.tolist() == [[0, 1], [32768, 65535]]
