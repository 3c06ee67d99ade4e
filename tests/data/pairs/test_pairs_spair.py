"""SPair-71k's pairs against an independent reading of the protocol."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _pair_worlds import pairs_of, refusal_of, save, small_card, write_spair
from PIL import Image

from clipjax.data.check import check_dataset
from clipjax.data.pairs import spair
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.errors import DataError

SIDE, MOST = 80, 30
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
PAIR = "PairAnnotation/test/000000-2008_000000-2008_000001:bus.json"
IMAGE = "ImageAnnotation/bus/2008_000001.json"
FIRST = "pair 000000-2008_000000-2008_000001:bus: "


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_spair(tmp_path_factory.mktemp("spair") / "data")


@pytest.fixture
def copy(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "data"))


def read(root: Path, folder: Path, **options) -> PairSet:
    return pairs_of("spair71k", root, folder, **options)


def reading(root: Path, name: str) -> Pair:
    """The protocol, keypoint by keypoint."""
    record = json.loads((root / f"PairAnnotation/test/{name}.json").read_text())
    first, second = name.split(":")[0].split("-")[1:]
    images, points, there = [], np.zeros((2, MOST, 2)), np.zeros((2, MOST), bool)
    for k, image in enumerate((first, second)):
        picture = np.asarray(Image.open(root / f"JPEGImages/{record['category']}/{image}.jpg").convert("RGB"))
        height, width, _ = picture.shape
        longest = max(height, width)
        square = np.full((longest, longest, 3), 255, np.uint8)
        square[:height, :width] = picture
        small = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        images.append((np.asarray(small).astype(np.float32) / np.float32(255) - MEAN) / STD)
        kps = json.loads((root / f"ImageAnnotation/{record['category']}/{image}.json").read_text())["kps"]
        for number, point in kps.items():
            if point is not None:
                points[k, int(number)] = [int(v) * SIDE // longest for v in point]
                there[k, int(number)] = True
    left, top, right, bottom = record["trg_bndbox"]
    extent = max(right - left, bottom - top) / max(record["trg_imsize"][:2])
    geometry = {"keypoints": points, "visible": there[0] & there[1], "extent": np.array(extent)}
    return Pair(np.stack(images), geometry)


def is_same(ours: Pair, theirs: Pair) -> bool:
    visible = theirs.geometry["visible"]
    return bool(
        (ours.images == theirs.images).all()
        and (ours.geometry["visible"] == visible).all()
        and (ours.geometry["keypoints"][:, visible] == theirs.geometry["keypoints"][:, visible]).all()
        and abs(ours.geometry["extent"] - theirs.geometry["extent"]) < 1e-6
    )


def test_a_pair_follows_the_protocol(copy, tmp_path):
    Image.open(copy / "JPEGImages/bus/2008_000002.jpg").convert("L").save(
        copy / "JPEGImages/bus/2008_000002.jpg"
    )
    pairs = read(copy, tmp_path)
    for i in range(len(pairs)):
        pair = pairs.load(i)
        assert is_same(pair, reading(copy, pairs.ids[i]))
        assert pair.geometry["visible"].sum() == 6
    shapes = {key: (each.shape, each.dtype.name) for key, each in pairs.load(0).geometry.items()}
    assert shapes == {
        "keypoints": ((2, 30, 2), "float32"),
        "visible": ((30,), "bool"),
        "extent": ((), "float32"),
    }


def _centred(image: Image.Image, side: int) -> np.ndarray:
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), (255, 255, 255))
    square.paste(image, (0, (image.width - image.height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


class _Rounded:
    """NumPy, but rounding to the nearest."""

    def __getattr__(self, name: str) -> object:
        return np.round if name == "trunc" else getattr(np, name)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_squared", _centred),
        ("_squared", lambda image, side: np.asarray(image.resize((side, side), 3))),
        ("np", _Rounded()),
    ],
    ids=["padded on both sides", "stretched", "rounded"],
)
def test_a_mistake_is_seen(world, tmp_path, monkeypatch, name, wrong):
    monkeypatch.setattr(spair, name, wrong)
    pairs = read(world, tmp_path)
    assert not all(is_same(pairs.load(i), reading(world, pairs.ids[i])) for i in range(3))


def test_the_draws_are_those_of_the_sorted_files(world, tmp_path):
    """By class, and by viewpoint or all: shuffled with the seed, the first few."""
    pairs = read(world, tmp_path, per_draw=2, seed=20)
    names = sorted(path.stem for path in (world / "PairAnnotation/test").glob("*.json"))
    viewpoint = {
        name: json.loads((world / f"PairAnnotation/test/{name}.json").read_text())["viewpoint_variation"]
        for name in names
    }
    expected: dict[str, list[str]] = {}
    for category in ("bus", "car"):
        for group in ("0", "1", "2", "all"):
            drawn = [n for n in names if n.endswith(category) and group in ("all", str(viewpoint[n]))]
            random.seed(20)
            random.shuffle(drawn)
            for name in drawn[:2]:
                expected.setdefault(name, []).append(group)
    assert dict(zip(pairs.ids, pairs.columns["groups"])) == expected
    assert list(pairs.ids) == sorted(expected)
    assert pairs.columns["viewpoint"] == [viewpoint[name] for name in pairs.ids]
    assert pairs.clusters == tuple(pairs.columns["category"])
    assert len(read(world, tmp_path, per_draw=0)) == len(names) == 12
    assert pairs.digest != read(world, tmp_path, per_draw=0).digest


def test_segmentation_is_optional(tmp_path):
    root = write_spair(tmp_path / "data", classes=("bus",), masks=False)
    assert check_dataset(root, small_card("spair71k", tmp_path)) == []


def _edit(root: Path, file: str, **changes) -> None:
    record = json.loads((root / file).read_text())
    (root / file).write_text(json.dumps(record | changes))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (
        lambda root: (root / "JPEGImages/bus/2008_000001.jpg").unlink(),
        "JPEGImages/bus/2008_000001.jpg does not exist",
    ),
    "no annotation": (lambda root: (root / IMAGE).unlink(), f"{IMAGE} does not exist"),
    "no keypoints": (lambda root: _edit(root, IMAGE, kps=[]), f"{IMAGE} has no keypoints (kps)"),
    "too many": (
        lambda root: _edit(root, IMAGE, kps={"30": [1, 2]}),
        "the keypoint '30' is not a number below 30",
    ),
    "no place": (lambda root: _edit(root, IMAGE, kps={"3": [1]}), "the keypoint 3 is not [x, y] or null"),
    "none in both": (lambda root: _edit(root, IMAGE, kps={"0": None}), "no keypoint is in both images"),
    "empty box": (lambda root: _edit(root, PAIR, trg_bndbox=[3, 4, 3, 4]), "the target's box is empty"),
    "sizes": (
        lambda root: _edit(root, PAIR, trg_imsize=[60, 75, 3]),
        "2008_000001.jpg has 75 x 60 pixels; its annotation says 60 x 75",
    ),
    "mask of another size": (
        lambda root: save(root / "Segmentation/bus/2008_000001.png", np.zeros((5, 6), np.uint8)),
        "2008_000001.png has 6 x 5 pixels, its image 75 x 60",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_pair_is_one_sentence(copy, tmp_path, damage):
    change, sentence = DAMAGED[damage]
    change(copy)
    problems = check_dataset(copy, small_card("spair71k", tmp_path))
    of_pair = [problem for problem in problems if problem.startswith(FIRST) and sentence in problem]
    assert len(of_pair) == 1, problems
    pairs = read(copy, tmp_path)
    if "mask" in damage:
        assert pairs.load(0).images.shape == (2, SIDE, SIDE, 3)
    else:
        with pytest.raises(DataError) as raised:
            pairs.load(0)
        absent = of_pair[0].replace("jpg does not exist", "jpg: cannot be read (No such file or directory)")
        assert str(raised.value) in (of_pair[0], f"{absent}; replace or remove it")
    assert pairs.load(11).images.shape == (2, SIDE, SIDE, 3), "the others are read"


WHOLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no split": (lambda root: shutil.rmtree(root / "PairAnnotation/test"), "give the folder SPair-71k"),
    "no pairs": (
        lambda root: [path.unlink() for path in (root / "PairAnnotation/test").glob("*")],
        "has no pairs (.json)",
    ),
    "a name": (lambda root: _edit(root, PAIR, filename="x:bus"), "filename 'x:bus' or the category is not"),
    "up": (lambda root: _edit(root, PAIR, category=".."), "or the category is not a pair's"),
    "viewpoint": (
        lambda root: _edit(root, PAIR, viewpoint_variation=3),
        "viewpoint_variation 3 is not",
    ),
    "size": (lambda root: _edit(root, PAIR, src_imsize=[0, 2, 3]), "a size of images is below 1 pixel"),
    "box": (lambda root: _edit(root, PAIR, trg_bndbox=[1]), "'trg_bndbox' is not a list of 4 numbers"),
    "twice": (
        lambda root: shutil.copy(root / PAIR, root / "PairAnnotation/test/x.json"),
        "another file has the pair 000000-2008_000000-2008_000001:bus, too",
    ),
}


@pytest.mark.parametrize("damage", WHOLE)
def test_a_data_set_that_is_refused(copy, tmp_path, damage):
    change, sentence = WHOLE[damage]
    change(copy)
    assert sentence in refusal_of("spair71k", copy, tmp_path)
