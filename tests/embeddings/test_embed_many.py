"""Several data sets in one stream: the bits of each alone, full steps; one that fails costs no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import TinyModel, manifest_of, write_images
from _records import embed_images, embed_many

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.joined import joined
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import forward
from clipjax.embeddings.sets import Embeddings
from clipjax.errors import DataError
from clipjax.storage.store import Store

BATCH, DEVICES = 4, 8
SIZES = (20,) * 10
RAGGED = (1, 33, 7, 20, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "images"
    write_images(path, sum(SIZES))
    return path


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def sets_of(folder: Path, sizes: tuple[int, ...]) -> list[Manifest]:
    """The images of the folder, dealt out to data sets of these sizes."""
    whole, ends = manifest_of(folder, sum(sizes)), np.cumsum(sizes)
    rows = [range(end - size, end) for end, size in zip(ends.tolist(), sizes)]
    return [dataclasses.replace(whole.select(part), name=f"set {k}") for k, part in enumerate(rows)]


def options(**others: Any) -> dict[str, Any]:
    return {"per_device_batch": BATCH, "progress": False} | others


def arrays(results: list[Embeddings]) -> list[np.ndarray]:
    return [each.array for each in results]


def assert_equal(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def passes(results: list[Embeddings]) -> int:
    return sum(each.stats.forward_passes for each in results)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: from now on there are so many devices."""

    def use(count: int) -> None:
        monkeypatch.setattr(forward, "local_mesh", lambda: make_mesh(jax.devices()[:count]))

    return use


def test_small_data_sets_fill_the_steps_and_keep_their_bits(model: TinyModel, folder: Path, devices: Any):
    """Ten sets of 20 images are 50 batches of 4: seven steps of eight devices, where each alone takes one."""
    manifests = sets_of(folder, SIZES)
    devices(1)
    expected = [embed_images(model, manifest, **options()).array for manifest in manifests]
    together = embed_many(model, manifests, **options())
    assert passes(together) == 50
    assert_equal(arrays(together), expected)
    devices(DEVICES)
    alone = [embed_images(model, manifest, **options()) for manifest in manifests]
    assert_equal(arrays(alone), expected)
    together = embed_many(model, manifests, **options())
    assert (passes(alone), passes(together)) == (10, 7)
    assert_equal(arrays(together), expected)
    assert [each.stats.images for each in together] == list(SIZES)
    assert [each.ids for each in together] == [list(manifest.ids) for manifest in manifests]
    assert [each.stats.skipped for each in together] == [()] * len(SIZES)


@pytest.mark.parametrize("count", [1, DEVICES])
@pytest.mark.parametrize("pixels", [False, True])
def test_ragged_sizes_in_the_stores(
    model: TinyModel, folder: Path, store: Store, tmp_path: Path, devices: Any, count: int, pixels: bool
):
    """As each alone, to the same entries; resumed from whatever shards are there."""
    devices(count)
    manifests = sets_of(folder, RAGGED)
    alone = [embed_images(model, m, store=Store(tmp_path / "alone"), **options()) for m in manifests]
    kept = PixelStore(tmp_path / "pixels") if pixels else None
    settings = options(store=store, pixel_store=kept, rows_per_shard=2 * BATCH)
    results = embed_many(model, manifests, **settings)
    batches = sum(-(-size // BATCH) for size in RAGGED)
    assert passes(results) == -(-batches // count)
    assert [each.key_hash for each in results] == [each.key_hash for each in alone]
    assert_equal(arrays(results), arrays(alone))
    for k, each in ((1, results[1]), (3, results[1]), (0, results[2])):
        shard = next((Path(store.root) / str(each.key_hash)).glob(f"{k:05d}-of-*.safetensors"))
        shard.unlink()
    again = embed_many(model, manifests, **settings)
    assert_equal(arrays(again), arrays(alone))
    assert [each.stats.images for each in again] == [0, 2 * 2 * BATCH, 7, 0, 0]
    assert passes(again) == -(-6 // count)
    assert passes(embed_many(model, manifests, **settings)) == 0


def test_the_same_images_are_embedded_once(model: TinyModel, folder: Path, store: Store):
    first, second = sets_of(folder, (7, 9))
    again = dataclasses.replace(first, name="once more", labels=np.zeros(7, np.int32))
    results = embed_many(model, [first, second, again], store=store, **options())
    assert [each.stats.images for each in results] == [7, 9, 0]
    assert passes(results) == 1
    assert results[2].key_hash == results[0].key_hash
    np.testing.assert_array_equal(results[2].array, results[0].array)
    assert embed_many(model, [], store=store, **options()) == []


def test_an_entry_keeps_its_batch(model: TinyModel, folder: Path, store: Store):
    """Where a killed run has left shards of another batch, that data set has a stream of its own."""
    manifests = sets_of(folder, (20, 20, 20))
    expected = embed_images(model, manifests[1], **options(per_device_batch=2)).array
    first = embed_images(model, manifests[1], store=store, **options(per_device_batch=2, rows_per_shard=2))
    for shard in sorted((Path(store.root) / str(first.key_hash)).glob("*.safetensors"))[3:]:
        shard.unlink()
    results = embed_many(model, manifests, store=store, **options())
    assert [each.stats.per_device_batch for each in results] == [4, 2, 4]
    assert [each.stats.images for each in results] == [20, 14, 20]
    assert [each.stats.forward_passes for each in results] == [1, 1, 1]  # 10 batches of 4, 7 batches of 2
    np.testing.assert_array_equal(results[1].array, expected)


# ------------------------------------------------------------------------------------ unreadable images


@pytest.fixture
def broken(tmp_path: Path) -> list[Manifest]:
    """Sets of 20, 9, 30, 6 and 10 images, of which one cannot be read in the second and two in the fourth."""
    write_images(tmp_path / "images", 75)
    for row in (24, 59, 61):
        (tmp_path / "images" / f"{row:04d}.png").write_bytes(b"no image")
    return sets_of(tmp_path / "images", (20, 9, 30, 6, 10))


@pytest.mark.parametrize("pixels", [False, True])
def test_an_unreadable_image_stops_its_own_data_set_alone(
    model: TinyModel, broken: list[Manifest], store: Store, tmp_path: Path, pixels: bool
):
    kept = PixelStore(tmp_path / "pixels") if pixels else None
    settings = options(store=store, pixel_store=kept, rows_per_shard=BATCH)
    with pytest.raises(DataError, match=r"0024\.png: not an image .*--on-error skip"):
        embed_many(model, broken, **settings)
    for k, manifest in enumerate(broken):
        if k in (1, 3):
            with pytest.raises(DataError, match=r"0024\.png" if k == 1 else r"0059\.png"):
                embed_images(model, manifest, **settings)
        else:
            again = embed_images(model, manifest, **settings)
            assert again.stats.images == 0, k
            np.testing.assert_array_equal(again.array, embed_images(model, manifest, **options()).array)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("pixels", [False, True])
def test_unreadable_images_are_skipped_in_each(
    model: TinyModel, broken: list[Manifest], store: Store, tmp_path: Path, stored: bool, pixels: bool
):
    kept = PixelStore(tmp_path / "pixels") if pixels else None
    settings = options(on_error="skip", pixel_store=kept, store=store if stored else None)
    results = embed_many(model, broken, **settings)
    skipped = [(), ("0024.png",), (), ("0059.png", "0061.png"), ()]
    assert [each.stats.skipped for each in results] == skipped
    assert [each.stats.images for each in results] == [20, 8, 30, 4, 10]
    alone = [embed_images(model, manifest, **options(on_error="skip")) for manifest in broken]
    assert [each.ids for each in results] == [each.ids for each in alone]
    assert_equal(arrays(results), arrays(alone))


# ------------------------------------------------------------------------------------ joined manifests


def test_joined_manifests(folder: Path):
    parts = sets_of(folder, (3, 1, 5))
    assert joined(parts[:1]) is parts[0]
    whole, expected = joined(parts), manifest_of(folder, 9)
    assert len(whole) == 9
    assert [whole.open(i) for i in range(9)] == [expected.open(i) for i in range(9)]
    assert [whole.opener.where(i) for i in range(9)] == [expected.opener.where(i) for i in range(9)]
    assert whole.opener.content_digests() == expected.opener.content_digests()
    some = whole.opener.select([8, 3, 4, 0, 2])
    assert [some.where(i) for i in range(5)] == [expected.opener.where(i) for i in (8, 3, 4, 0, 2)]
    # Data sets may use the same ids.
    twice = joined([parts[0], parts[0]])
    assert len(set(twice.ids)) == len(twice) == 6
