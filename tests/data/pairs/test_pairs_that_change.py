"""Files of pairs that another program writes between their hashing and their reading."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from _embed_tools import TinyModel
from _pair_worlds import small_card, write_navi, write_scannet, write_spair

from clipjax.data.cards import load_dataset
from clipjax.data.manifest import ChangedError, Manifest
from clipjax.data.pairs.files import FilePairs
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.pairs import match_pairs
from clipjax.models.dense import PROBE3D
from clipjax.storage.store import Store
from clipjax.tasks.correspondence import PairMatcher

WRITERS = {"navi": write_navi, "scannet_pairs": write_scannet, "spair71k": write_spair}
REFUSED = r"changes while it is read: run again when it is written"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("worlds")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture
def world(request, worlds, tmp_path) -> tuple[Path, Path]:
    """The card and the folder of a layout's data."""
    name = request.param
    root = tmp_path / "data"
    shutil.copytree(worlds[name], root)
    return small_card(name, tmp_path / "card"), root


def pairs_of(manifest: Manifest) -> FilePairs:
    pairs = manifest.checked_pairs
    assert isinstance(pairs, FilePairs)
    return pairs


def files_of(manifest: Manifest) -> list[str]:
    """The images and files of the first pair."""
    pairs = pairs_of(manifest)
    return sorted({*pairs.image_ids(0), *pairs.files[0]})


@pytest.mark.parametrize("world", sorted(WRITERS), indirect=True)
def test_each_file_of_a_pair_is_the_one_that_was_hashed(world):
    card, root = world
    manifest = load_dataset(card, root).manifest
    assert manifest.checked_pairs is manifest.pairs  # nothing is known of their contents
    manifest.compute_digest()
    pairs = pairs_of(manifest)
    before = pairs.load(0)
    read_at_load = [name for name in files_of(manifest) if name not in pairs.listed]
    assert len(read_at_load) >= 4  # two images, and what is beside them
    for name in read_at_load:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data + b"\n")  # still decoded by every reader
        with pytest.raises(ChangedError, match=rf"{name} {REFUSED}"):
            pairs.load(0)
        assert len(pairs.select([1])) == 1
        with pytest.raises(ChangedError, match=REFUSED):
            pairs.select([0]).load(0)
        (root / name).write_bytes(data)
    np.testing.assert_array_equal(pairs.load(0).images, before.images)


@pytest.mark.parametrize("world", sorted(WRITERS), indirect=True)
def test_a_file_that_lists_pairs_is_the_one_that_is_hashed(world):
    card, root = world
    manifest = load_dataset(card, root).manifest
    name = min(set(pairs_of(manifest).listed) & set(pairs_of(manifest).files[0]))
    (root / name).write_bytes((root / name).read_bytes() + b"\n")
    with pytest.raises(ChangedError, match=rf"{name} {REFUSED}"):
        manifest.compute_digest()
    assert len(load_dataset(card, root).manifest.digest) == 64


@pytest.mark.parametrize("world", ["navi"], indirect=True)
def test_a_file_that_appears_is_refused(world):
    card, root = world
    manifest = load_dataset(card, root).manifest
    depth = next(name for name in files_of(manifest) if "/depth/" in name)
    data = (root / depth).read_bytes()
    (root / depth).unlink()
    manifest.compute_digest()
    (root / depth).write_bytes(data)
    with pytest.raises(ChangedError, match=rf"{depth} {REFUSED}"):
        pairs_of(manifest).load(0)


@pytest.mark.parametrize("world", ["navi"], indirect=True)
@pytest.mark.parametrize("kind", ["images", "depth"])
def test_pairs_that_change_during_a_run_leave_nothing_in_the_store(world, tmp_path, monkeypatch, kind):
    """Not even with `on_error = "skip"`: nothing is wrong with the pair."""
    card, root = world
    compute, model = Manifest.compute_digest, TinyModel()
    names = [name for name in files_of(load_dataset(card, root).manifest) if f"/{kind}/" in name]
    files = {root / name: (root / name).read_bytes() for name in names}

    def rewritten(manifest, *progress):
        """The files are hashed, then another program writes them."""
        digest = compute(manifest, *progress)
        for file, data in files.items():
            file.write_bytes(data + b"\n")
        return digest

    def matched(**options):
        dataset = load_dataset(card, root)
        assert dataset.card.matching is not None
        matcher = PairMatcher(dataset.card.matching)
        how = Compute(progress=False, **options)
        return match_pairs(model, dataset.manifest, matcher, PROBE3D, how).array

    own = matched()
    stored = {"store": Store(tmp_path / "store"), "on_error": "skip"}
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "compute_digest", rewritten)
        with pytest.raises(ChangedError, match=REFUSED):
            matched(**stored)
    for file, data in files.items():
        file.write_bytes(data)
    np.testing.assert_array_equal(matched(**stored), own)
