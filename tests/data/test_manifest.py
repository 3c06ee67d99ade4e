"""The manifest's digest follows ids, contents, labels and columns and nothing else; samples are honest."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil

import numpy as np
import pytest
from _images import memory_manifest, png, write_images
from etils import epath

from clipjax.data.manifest import ChangedError, Manifest
from clipjax.data.pixels.joined import joined
from clipjax.data.readers.folder import read_folder
from clipjax.errors import DataError, UsageError

NAMES = ["cat/a.png", "cat/b.png", "dog/a.png"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path / "data", NAMES)


def read(root) -> Manifest:
    return read_folder(epath.Path(root))


def test_a_copy_keeps_the_digest(root, tmp_path):
    digest = read(root).digest
    shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    assert read(tmp_path / "elsewhere" / "copy").digest == digest


def test_editing_one_file_changes_the_digest(root):
    before = read(root).digest
    (root / "cat/b.png").write_bytes(png(99))
    assert read(root).digest != before


def test_renaming_one_file_changes_the_digest(root):
    before = read(root).digest
    (root / "cat/b.png").rename(root / "cat/c.png")
    assert read(root).digest != before


def test_labels_columns_and_order_are_part_of_the_digest_and_the_name_is_not():
    manifest = memory_manifest(3, captions=["a", "b", "c"])
    other_label = dataclasses.replace(manifest, labels=np.array([0, 1, 1], np.int32))
    other_caption = dataclasses.replace(manifest, columns={"caption": ["a", "b", "d"]})
    no_label = dataclasses.replace(manifest, labels=None)
    digests = {m.digest for m in (manifest, other_label, other_caption, no_label, manifest.select([1, 0, 2]))}
    assert len(digests) == 5
    assert dataclasses.replace(manifest, name="renamed").digest == manifest.digest


@pytest.mark.usefixtures("settled")
def test_a_second_run_reads_no_file(root, monkeypatch):
    seen: list[int] = []
    digest = read(root).compute_digest(seen.append)
    assert sum(seen) == sum((root / name).stat().st_size for name in NAMES)

    def fail(*_):
        raise AssertionError("a file was read again")

    monkeypatch.setattr("clipjax.storage.digests.hashlib.file_digest", fail)
    assert read(root).digest == digest
    os.utime(root / "dog/a.png", ns=(1, 1))
    with pytest.raises(AssertionError, match="read again"):
        _ = read(root).digest


def test_select_keeps_ids_labels_and_bytes():
    manifest = memory_manifest(5, captions=list("abcde"))
    part = manifest.select([4, 1])
    assert part.ids == ("4.png", "1.png")
    assert part.labels is not None
    assert part.labels.tolist() == [4, 1]
    assert part.columns == {"caption": ["e", "b"]}
    assert part.open(0) == manifest.open(4)


def test_a_sample_is_seeded_recorded_nested_and_independent_of_the_order():
    manifest = memory_manifest(200)
    ten, fifty = manifest.sample(10, seed=3), manifest.sample(50, seed=3)
    assert len(ten) == 10
    assert set(ten.ids) < set(fifty.ids)
    assert list(ten.ids) == sorted(ten.ids, key=manifest.ids.index)
    assert ten.selection == "random sample of 10 of 200 images, seed 3"
    assert set(manifest.select(range(199, -1, -1)).sample(10, seed=3).ids) == set(ten.ids)
    assert set(manifest.sample(10, seed=4).ids) != set(ten.ids)
    assert manifest.sample(200) is manifest
    with pytest.raises(UsageError, match="at least 1"):
        manifest.sample(0)


def test_a_sample_is_uniform():
    manifest = memory_manifest(20)
    counts = np.zeros(20)
    for seed in range(2000):
        for name in manifest.sample(5, seed=seed).ids:
            counts[int(name.removesuffix(".png"))] += 1
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert chi_square < 43.8  # the 99.9 % point for 19 degrees of freedom; the seeds are fixed


def test_inconsistent_manifests_are_refused():
    manifest = memory_manifest(3)
    with pytest.raises(DataError, match=r"'0\.png' occurs twice"):
        manifest.select([0, 1, 0])
    with pytest.raises(DataError, match="3 images but 2 values in 'caption'"):
        dataclasses.replace(manifest, columns={"caption": ["a", "b"]})


def test_a_missing_image_is_named(root):
    manifest = read(root)
    (root / "dog/a.png").unlink()
    with pytest.raises(DataError, match=r"dog/a\.png: cannot be read"):
        manifest.open(2)


def test_a_manifest_survives_pickling(root):
    manifest = pickle.loads(pickle.dumps(read(root)))
    assert manifest.ids == tuple(NAMES)
    assert manifest.open(1) == png(1)
    assert manifest.digest == read(root).digest


def test_the_order_digest_reads_nothing(root):
    manifest = read(root)
    shutil.rmtree(root)
    assert manifest.order_digest != manifest.select([1, 0, 2]).order_digest


@pytest.mark.parametrize(
    "part", [lambda whole: whole, lambda whole: whole.select([2, 1]), lambda whole: joined([whole, whole])]
)
def test_an_image_that_changed_after_it_was_hashed_is_refused(root, part):
    manifest = read(root)
    before = part(manifest)  # nothing is known of its contents
    manifest.compute_digest()
    after = part(manifest)
    assert after.open(1) == (root / after.ids[1].removeprefix("0/")).read_bytes()
    (root / "cat" / "b.png").write_bytes(png(77))
    assert before is manifest or before.open(1) == png(77)
    with pytest.raises(ChangedError, match=r"cat/b\.png changes while it is read: run again when"):
        after.open(1)
    assert read(root).open(1) == png(77)
