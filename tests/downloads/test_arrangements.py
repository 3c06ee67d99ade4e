"""ImageNet's archives sorted into folders of classes, on a small devkit of the real structure."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from clipjax.data.cards import read_card
from clipjax.downloads.arrangement import ARRANGEMENTS, Arrangement, find_arrangement
from clipjax.downloads.arrangements import imagenet_train, imagenet_val
from clipjax.errors import DataError

# In the order of the class numbers, which is not that of the synsets.
SYNSETS = ["n02119789", "n01440764", "n02100735"]
TRUTH = [2, 1, 3, 3, 2, 1]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_val, "IMAGES", len(TRUTH))
    for module in (imagenet_val, imagenet_train):
        monkeypatch.setattr(module, "CLASSES", len(SYNSETS))


def devkit(draft: Path, synsets: list[str] = SYNSETS, truth: list[int] = TRUTH) -> Path:
    """Three leaves, and an inner class above them, as in ILSVRC2012_devkit_t12."""
    data = draft / "imagenet/val/ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    table = np.zeros((len(synsets) + 1, 1), [(name, object) for name in [*fields, "num_train_images"]])
    for i, wnid in enumerate([*synsets, "n00001740"]):
        leaf = i < len(synsets)
        children = np.zeros((1, 0)) if leaf else np.arange(1.0, len(synsets) + 1)[None]
        number = i + 1 if leaf else 1001
        table[i, 0] = (number, wnid, "name", "text", children.size, children, 0 if leaf else 1, 1300 * leaf)
    scipy.io.savemat(data / "meta.mat", {"synsets": table})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{label}\n" for label in truth))
    return data


def images(draft: Path, count: int = len(TRUTH)) -> None:
    for number in range(1, count + 1):
        (draft / f"imagenet/val/ILSVRC2012_val_{number:08d}.JPEG").write_bytes(b"image %d" % number)


def found(draft: Path) -> dict[str, bytes]:
    return {str(p.relative_to(draft)): p.read_bytes() for p in draft.rglob("*") if p.is_file()}


SORTED = {
    f"imagenet/val/{SYNSETS[label - 1]}/ILSVRC2012_val_{number:08d}.JPEG": b"image %d" % number
    for number, label in enumerate(TRUTH, 1)
}


def test_validation_images_are_sorted(tmp_path: Path) -> None:
    devkit(tmp_path)
    images(tmp_path)
    find_arrangement("imagenet_val").arrange(tmp_path)
    assert found(tmp_path) == SORTED


def test_sorting_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devkit(tmp_path)
    images(tmp_path)
    with monkeypatch.context() as patch:
        _fail_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            imagenet_val.arrange(tmp_path)
    assert found(tmp_path) != SORTED
    imagenet_val.arrange(tmp_path)
    assert found(tmp_path) == SORTED


def _fail_after(patch: pytest.MonkeyPatch, count: int) -> None:
    rename, done = os.rename, [0]

    def counting(source: Path, target: Path) -> None:
        if done[0] == count:
            raise KeyboardInterrupt
        done[0] += 1
        rename(source, target)

    patch.setattr(os, "rename", counting)


def test_the_devkit_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "imagenet/val").mkdir(parents=True)
    images(tmp_path)
    with pytest.raises(DataError, match=r"meta\.mat does not exist: ILSVRC2012_devkit_t12\.tar\.gz"):
        imagenet_val.arrange(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"synsets": SYNSETS[:2]}, r"meta\.mat should number 3 classes"),
        ({"synsets": [*SYNSETS[:2], SYNSETS[0]]}, r"meta\.mat should number 3 classes"),
        ({"synsets": [*SYNSETS[:2], "../n021007"]}, r"meta\.mat: '\.\./n021007' is not a synset"),
        ({"truth": TRUTH[:5]}, r"ground_truth\.txt has 5 lines, not 6"),
        ({"truth": [*TRUTH[:5], 4]}, r"ground_truth\.txt:6: '4' is not a class from 1 to 3"),
        ({"truth": [*TRUTH[:5], 1001]}, r"ground_truth\.txt:6: '1001' is not a class"),
    ],
)
def test_another_devkit_is_refused(change: dict[str, list[str]], message: str, tmp_path: Path) -> None:
    devkit(tmp_path, **change)  # type: ignore[arg-type]
    images(tmp_path)
    before = found(tmp_path)
    with pytest.raises(DataError, match=message):
        imagenet_val.arrange(tmp_path)
    assert found(tmp_path) == before


@pytest.mark.parametrize("damage", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), None])
def test_a_damaged_devkit_is_one_sentence(damage: bytes | None, tmp_path: Path) -> None:
    data = devkit(tmp_path)
    images(tmp_path)
    if damage is None:
        scipy.io.savemat(data / "meta.mat", {"others": np.ones(3)})
    else:
        (data / "meta.mat").write_bytes(damage)
    with pytest.raises(DataError, match=r"meta\.mat is damaged .*: fetch the devkit again"):
        imagenet_val.arrange(tmp_path)


@pytest.mark.parametrize(
    ("count", "odd"),
    [(5, r"lacks ILSVRC2012_val_00000006\.JPEG"), (7, r"holds ILSVRC2012_val_00000007\.JPEG")],
)
def test_another_number_of_images_is_refused(count: int, odd: str, tmp_path: Path) -> None:
    devkit(tmp_path)
    images(tmp_path, count)
    before = found(tmp_path)
    with pytest.raises(DataError, match=f"imagenet/val should hold 6 images and {odd}"):
        imagenet_val.arrange(tmp_path)
    assert found(tmp_path) == before


# --- training images ---


def class_tars(draft: Path, synsets: list[str] = SYNSETS) -> dict[str, bytes]:
    """A tar for each class; returns the images that are in them, by where they go."""
    folder = draft / "imagenet/train"
    folder.mkdir(parents=True)
    inside = {}
    for synset in synsets:
        with tarfile.open(folder / f"{synset}.tar", "w") as archive:
            for number in range(2):
                info = tarfile.TarInfo(f"{synset}_{number}.JPEG")
                info.size = len(data := b"%d of %s" % (number, synset.encode()))
                archive.addfile(info, io.BytesIO(data))
                inside[f"imagenet/train/{synset}/{info.name}"] = data
    return inside


def test_training_images_are_unpacked(tmp_path: Path) -> None:
    inside = class_tars(tmp_path)
    find_arrangement("imagenet_train").arrange(tmp_path)
    assert found(tmp_path) == inside


@pytest.mark.parametrize("renames", range(3))
def test_unpacking_goes_on_after_a_kill(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = class_tars(tmp_path)
    with monkeypatch.context() as patch:
        _fail_after(patch, renames)
        with pytest.raises(KeyboardInterrupt):
            imagenet_train.arrange(tmp_path)
    assert len(list((tmp_path / "imagenet/train").glob("*.tar"))) == len(SYNSETS) - renames
    imagenet_train.arrange(tmp_path)
    assert found(tmp_path) == inside


def test_a_class_that_was_unpacked_before_its_tar_was_removed(tmp_path: Path) -> None:
    inside = class_tars(tmp_path)
    kept = (tmp_path / f"imagenet/train/{SYNSETS[0]}.tar").read_bytes()
    imagenet_train.arrange(tmp_path)
    (tmp_path / f"imagenet/train/{SYNSETS[0]}.tar").write_bytes(kept)
    imagenet_train.arrange(tmp_path)
    assert found(tmp_path) == inside


@pytest.mark.parametrize(
    ("synsets", "message"),
    [
        (SYNSETS[:2], "holds 2 classes, not 3"),
        ([*SYNSETS[:2], "readme"], r"holds readme\.tar, which is not a class's tar"),
    ],
)
def test_other_training_images_are_refused(synsets: list[str], message: str, tmp_path: Path) -> None:
    class_tars(tmp_path, synsets)
    before = found(tmp_path)
    with pytest.raises(DataError, match=f"imagenet/train {message}"):
        imagenet_train.arrange(tmp_path)
    assert found(tmp_path) == before


def test_a_damaged_class_is_named(tmp_path: Path) -> None:
    class_tars(tmp_path)
    path = tmp_path / f"imagenet/train/{SYNSETS[0]}.tar"
    path.write_bytes(path.read_bytes()[:1400])
    with pytest.raises(DataError, match=rf"{SYNSETS[0]}\.tar: "):
        imagenet_train.arrange(tmp_path)
    assert not (tmp_path / "imagenet/train" / SYNSETS[0]).exists()


# --- by name ---


def test_every_arrangement_that_a_card_names_exists() -> None:
    """And it looks where the card's files go."""
    named = {file.arrange: file.into for name in ("imagenet_val", "imagenet_train", "imagenet_x")
             for file in read_card(name).files if file.arrange}  # fmt: skip
    assert named == {"imagenet_val": "imagenet/val", "imagenet_train": "imagenet/train"}
    assert (str(imagenet_val.FOLDER), str(imagenet_train.FOLDER)) == ("imagenet/val", "imagenet/train")
    assert {*named} == {*ARRANGEMENTS.all(Arrangement)}
