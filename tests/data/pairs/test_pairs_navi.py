"""NAVI's pairs against an independent reading of the protocol, and against the world's true geometry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _long import mostly_long
from _navi_draw import drawn
from _navi_reading import SIDE, reading
from _pair_worlds import (
    BOX,
    navi_pose,
    pairs_of,
    refusal_of,
    save,
    small_card,
    with_large_numbers,
    write_navi,
)
from PIL import Image

from clipjax.data.cards import load_dataset
from clipjax.data.check import check_dataset
from clipjax.data.pairs import navi, navi_view
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.demo.world.pair_files import disparity, navi_record
from clipjax.errors import DataError

FIRST = "pair box/wild_set/000 box/wild_set/001: "


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_navi(tmp_path_factory.mktemp("navi") / "data")


@pytest.fixture(scope="module")
def near_world(world, tmp_path_factory) -> Path:
    """11 times nearer: numbers in the depth pictures on both sides of 32,767."""
    return with_large_numbers(world, tmp_path_factory.mktemp("near") / "data", 11)


@pytest.fixture
def copy(world, tmp_path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "data"))


def read(root: Path, folder: Path, **options) -> PairSet:
    return pairs_of("navi", root, folder, **options)


def differences(ours: Pair, theirs: Pair) -> dict[str, float]:
    off = {key: float(np.abs(ours.geometry[key] - value).max()) for key, value in theirs.geometry.items()}
    return off | {"images": float(np.abs(ours.images - theirs.images).max())}


def is_same(ours: Pair, theirs: Pair) -> bool:
    off = differences(ours, theirs)
    return off["images"] == 0 and off["points"] < 1e-6 and off["motion"] < 1e-6 and off["intrinsics"] < 1e-4


@pytest.mark.parametrize("crop", [True, False])
def test_a_pair_follows_the_protocol(near_world, world, tmp_path, crop):
    for root in (near_world, world):
        pairs = read(root, tmp_path, crop=crop)
        for i in (1, 2):
            pair = pairs.load(i)
            assert is_same(pair, reading(root, pairs.ids[i], crop))
            assert {each.dtype for each in (pair.images, *pair.geometry.values())} == {np.dtype("float32")}


def test_points_lie_on_the_box_and_meet_under_the_motion(world, tmp_path):
    pairs = read(world, tmp_path, crop=False)
    for i, k in ((0, 0), (1, 1)):
        geometry = pairs.load(i).geometry
        for view, shift in ((0, geometry["motion"]), (1, np.eye(4))):
            points = geometry["points"][view]
            points = points[points[..., 2] > 0]
            assert len(points) > 50
            at_1 = np.c_[points, np.ones(len(points))] @ shift.T
            metric = navi_pose(k + 1)
            metric[:3, 3] /= 1000
            in_box = (at_1 @ np.linalg.inv(metric).T)[:, :3] / (np.array(BOX) / 1000)
            # A pixel is two millimetres wide, and both crops move the centre by a part of one.
            assert np.abs(np.abs(in_box).max(-1) - 1).max() < 0.1


WRONG: dict[str, tuple[object, str, Callable]] = {
    "camera inverted": (navi.NaviPairs, "motion", lambda f: lambda self, i: np.linalg.inv(f(self, i))),
    "quaternion inverted": (
        navi_view,
        "motion_of",
        lambda f: lambda q, t: f([q[0], -q[1], -q[2], -q[3]], t),
    ),
    "translation in mm": (navi_view, "motion_of", lambda f: lambda q, t: f(q, [1000 * x for x in t])),
    "disparity as depth": (navi_view, "_metres", lambda f: lambda d: d / 1000),
    "signed depth": (
        navi,
        "decode_depth",
        lambda f: lambda *args: f(*args).astype(np.int16).astype(np.int32),
    ),
    "full-size intrinsics": (
        navi_view.View,
        "prepare",
        lambda f: lambda self, *args: f(navi_view.View(self.pose, self.focal * 90 / SIDE, self.size), *args),
    ),
    "intrinsics before the crop": (
        navi_view.View,
        "prepare",
        lambda f: lambda self, *args: f(self, *args)._replace(focal=self.focal * SIDE / 90),
    ),
    "no half pixels": (
        navi_view,
        "unproject",
        lambda f: lambda depth, k: f(depth, k + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])),
    ),
    "torch's nearest at pixel centres": (navi_view, "_torch_nearest", lambda f: lambda n, m: centres(n, m)),
    "OpenCV's nearest at pixel centres": (navi_view, "_opencv_nearest", lambda f: lambda n, m: centres(n, m)),
    "the last row kept": (navi_view, "_box", lambda f: lambda *args: (*f(*args)[:2], f(*args)[2] + 1)),
    "another JPEG": (navi_view, "_QUALITY", lambda f: 95),
    "another short side": (navi_view, "SHORT", lambda f: 1000),
}


def centres(length: int, resized: int) -> np.ndarray:
    return np.floor((np.arange(resized) + 0.5) * length / resized).astype(int)


@pytest.mark.parametrize("mistake", mostly_long(WRONG, keep=["another JPEG", "the last row kept"]))
def test_a_mistake_is_seen(near_world, tmp_path, monkeypatch, mistake):
    owner, name, make = WRONG[mistake]
    monkeypatch.setattr(owner, name, make(getattr(owner, name)))
    pairs = read(near_world, tmp_path)
    assert not is_same(pairs.load(1), reading(near_world, pairs.ids[1], True))


def test_prepared_images_give_the_same_pair(copy, tmp_path):
    """As resize_navi.py of the reference writes them; an image turned by its EXIF data is upright in both."""
    sideways = Image.open(copy / "box/wild_set/images/001.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it
    sideways.save(copy / "box/wild_set/images/001.jpg", exif=exif, quality=95)
    raw = read(copy, tmp_path)
    assert raw.load(0).images.shape == (2, SIDE, SIDE, 3)
    before = [raw.load(i) for i in range(len(raw))]
    for folder, resample in (("images", Image.Resampling.BILINEAR), ("depth", Image.Resampling.NEAREST)):
        for path in copy.glob(f"*/wild_set/{folder}/0*"):
            image = Image.open(path)
            turned = image.transpose(Image.Transpose.ROTATE_270) if 0x0112 in image.getexif() else image
            turned = Image.fromarray(np.asarray(turned).astype(np.int32)) if folder == "depth" else turned
            factor = 1024 / min(turned.size)
            small = turned.resize((int(turned.width * factor), int(turned.height * factor)), resample)
            if folder == "depth":
                small = Image.fromarray(np.asarray(small).astype(np.uint16))
            small.save(path.with_name(f"downsampled_{path.name}"))
            path.unlink()
    prepared = read(copy, tmp_path)
    assert prepared.ids == raw.ids
    assert prepared.image_ids(0)[0] == "box/wild_set/images/downsampled_000.jpg"
    assert prepared.digest != raw.digest
    for i, pair in enumerate(before):
        assert is_same(prepared.load(i), pair)


def test_both_spellings_of_folders_and_every_list(world, copy, tmp_path):
    data = write_navi(tmp_path / "underscore", objects=("box",), dash="_")
    lists = data / "custom_splits/pairwise_pixel_correspondences"
    spelled = (lists / "pairs-multiview.txt").read_text()
    (lists / "pairs-multiview.txt").write_text(spelled.replace("multiview_", "multiview-"))
    pairs = read(data, tmp_path, pairs="multiview")
    assert pairs.ids[0] == "box/multiview_00-made/000 box/multiview_00-made/001"
    assert read(world, tmp_path, pairs="multiview").ids[0].startswith("box/multiview-00-made/000 ")
    assert pairs.load(0).images.shape == (2, SIDE, SIDE, 3)

    own = tmp_path / "own.txt"
    own.write_text("box/wild_set/images/002.jpg box/wild_set/000.jpg\n\n")
    shutil.copy(own, copy / "in_root.txt")
    for option in (str(own), "in_root.txt"):
        pairs = read(copy, tmp_path, pairs=option)
        assert (pairs.ids, pairs.clusters) == (("box/wild_set/002 box/wild_set/000",), ("box",))
        assert pairs.columns == {"angle": [50.0]}


def test_other_values_of_an_annotation_have_no_effect(copy, tmp_path):
    before = read(copy, tmp_path).load(0)
    path = copy / "box/wild_set/annotations.json"
    records = json.loads(path.read_text())
    records[0] |= {"video_id": None, "occluded": None, "more": [1]}
    path.write_text(json.dumps(records))
    assert is_same(read(copy, tmp_path).load(0), before)


def _edit(root: Path, k: int, change: Callable[[dict], object]) -> None:
    path = root / "box/wild_set/annotations.json"
    records = json.loads(path.read_text())
    change(records[k])
    path.write_text(json.dumps(records))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no depth": (
        lambda root: (root / "box/wild_set/depth/001.png").unlink(),
        "depth/001.png does not exist",
    ),
    "no image": (
        lambda root: (root / "box/wild_set/images/001.jpg").unlink(),
        "images/001.jpg: cannot be read",
    ),
    "all zeros": (
        lambda root: save(root / "box/wild_set/depth/001.png", np.zeros((90, 120), np.uint16)),
        "depth/001.png: all depths are 0",
    ),
    "one pixel": (
        lambda root: save(root / "box/wild_set/depth/001.png", disparity(_spot(1))),
        "depth/001.png: one pixel alone has a depth",
    ),
    "eight bits": (
        lambda root: save(root / "box/wild_set/depth/001.png", np.ones((90, 120), np.uint8)),
        "depth/001.png: expected one channel of 16 bits, found mode L",
    ),
    "depth of another size": (
        lambda root: save(root / "box/wild_set/depth/001.png", np.ones((90, 90), np.uint16)),
        "depth/001.png has 90 x 90 pixels, and its image 120 x 90",
    ),
    "image of another size": (
        lambda root: save(root / "box/wild_set/images/001.jpg", np.zeros((90, 90, 3), np.uint8)),
        "images/001.jpg has 90 x 90 pixels; annotations.json says 120 x 90",
    ),
    "mask of another size": (
        lambda root: save(root / "box/wild_set/masks/001.png", np.zeros((9, 12), np.uint8)),
        "masks/001.png has 12 x 9 pixels, and its image 120 x 90",
    ),
    "no rotation": (
        lambda root: _edit(root, 1, lambda r: r["camera"].update(q=[0, 0, 0, 0])),
        "001.jpg: the quaternion [0.0, 0.0, 0.0, 0.0] is not a rotation",
    ),
    "no camera": (
        lambda root: _edit(root, 1, lambda r: r.pop("camera")),
        "001.jpg: the key 'camera' is missing",
    ),
    "focal length 0": (
        lambda root: _edit(root, 1, lambda r: r["camera"].update(focal_length=0)),
        "001.jpg: its image_size [90, 120] or focal_length 0 is impossible",
    ),
    "not annotated": (
        lambda root: _edit(root, 1, lambda r: r.update(filename="x.jpg")),
        "box/wild_set/annotations.json has no image 001",
    ),
}


def _spot(pixels: int) -> np.ndarray:
    depth = np.zeros((90, 120))
    depth[45 : 45 + pixels, 60 : 60 + pixels] = 100
    return depth


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_pair_is_one_sentence_and_the_others_are_read(copy, tmp_path, damage):
    change, sentence = DAMAGED[damage]
    change(copy)
    problems = check_dataset(copy, small_card("navi", tmp_path))
    of_pair = [problem for problem in problems if problem.startswith(FIRST)]
    assert len(of_pair) == 1
    assert sentence in of_pair[0]
    assert all(problem.startswith("pair box/wild_set/") for problem in problems), problems
    pairs = read(copy, tmp_path)
    assert pairs.load(2).images.shape == (2, SIDE, SIDE, 3)
    assert len(pairs.digest) == 64, "what cannot be read does not stop the others"
    if "mask" not in damage:
        with pytest.raises(DataError) as raised:
            pairs.load(0)
        assert str(raised.value) == of_pair[0]


LISTS: dict[str, tuple[str, str]] = {
    "empty": ("\n", "lists no pairs"),
    "one path": ("box/wild_set/images/000.jpg\n", ":1: expected two image paths and an angle"),
    "two objects": (
        "box/wild_set/images/000.jpg crate/wild_set/images/000.jpg 3\n",
        ":1: a pair of two objects, box and crate",
    ),
    "angle": ("box/wild_set/0.jpg box/wild_set/1.jpg 181", ":1: the angle '181' is not a number of degrees"),
    "no scene": ("box/wild_set/0.jpg box/wild/1.jpg 3\n", ":1: the scene box/wild does not exist"),
    "up": ("box/../wild_set/0.jpg box/wild_set/1.jpg 3\n", "is not <object>/<scene>/images/<number>.jpg"),
    "twice": (
        "box/wild_set/000.jpg box/wild_set/001.jpg\n" * 2,
        ":2: the pair box/wild_set/000 box/wild_set",
    ),
    "no image at all": ("box/wild_set/7.jpg box/wild_set/8.jpg\n", "has none of the 2 images of its pairs"),
}


@pytest.mark.parametrize("case", LISTS)
def test_wrong_lists_name_file_and_line(world, tmp_path, case):
    text, sentence = LISTS[case]
    (tmp_path / "list.txt").write_text(text)
    assert sentence in refusal_of("navi", world, tmp_path, pairs=str(tmp_path / "list.txt"))


def test_a_data_set_that_is_refused(copy, tmp_path):
    with pytest.raises(DataError, match="the option pairs is wild_set or multiview, or a file of pairs"):
        read(copy, tmp_path, pairs="wild")
    with pytest.raises(DataError, match=r"\[matching\] cannot have another size"):
        load_dataset(small_card("navi", tmp_path, size=[64, 48]), copy)
    (copy / "box/wild_set/annotations.json").write_text(json.dumps([{"camera": {}}]))
    with pytest.raises(DataError, match=r"annotations.json: image 0 .* has no 'filename'"):
        read(copy, tmp_path)
    shutil.rmtree(copy / "custom_splits")
    [problem] = check_dataset(copy, small_card("navi", tmp_path))
    assert (
        "pairs-wild_set.txt does not exist: give the folder with NAVI's objects and custom_splits" in problem
    )


def test_a_record_needs_whole_sizes():
    record = navi_record(0, "box", "wild_set", navi_pose(0))
    assert navi_view.view_of(record).size == (90, 120)
    for size in ([90.5, 120], [0, 120]):
        with pytest.raises(ValueError, match="image_size"):
            navi_view.view_of(record | {"image_size": size})


def test_the_references_draw_becomes_a_file(tmp_path):
    """Eight images, 50 degrees apart: every fourth of them, with one of its four neighbours."""
    root = write_navi(tmp_path / "data", objects=("box",), views=3)
    path = root / "box/wild_set/annotations.json"
    record = json.loads(path.read_text())[0]
    turns = [50.0 * k for k in range(8)]
    records = [record | {"filename": f"{k:03d}.jpg", "camera": _turned(record, turns[k])} for k in range(8)]
    path.write_text(json.dumps(records))
    for k in range(8):
        save(root / f"box/wild_set/images/{k:03d}.jpg", np.zeros((90, 120, 3), np.uint8))
    lines = drawn(root)
    assert [line.split(" ")[0][-7:-4] for line in lines] == ["000", "004"]
    (tmp_path / "drawn.txt").write_text("\n".join(lines))
    pairs = read(root, tmp_path, pairs=str(tmp_path / "drawn.txt"))
    for angle, listed, name in zip(pairs.columns["angle"], pairs.columns["listed_angle"], pairs.ids):
        first, second = (turns[int(each[-3:])] for each in name.split(" "))
        assert 0 < angle <= 120
        assert angle == pytest.approx(listed, abs=0.01)
        assert angle == pytest.approx(abs((first - second + 180) % 360 - 180), abs=1e-3)
    assert drawn(root) == lines, "the generator starts anew"


def _turned(record: dict, degrees: float) -> dict:
    half = np.radians(degrees / 2)
    return record["camera"] | {"q": [float(np.cos(half)), 0.0, float(np.sin(half)), 0.0]}
