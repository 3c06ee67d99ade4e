"""Stored pixels: the bytes of decoding directly, whatever happened to the store before."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import TinyModel, manifest_of
from _embed_tools import write_images as write_tiny_images
from _records import embed_images
from etils import epath
from PIL import Image

from clipjax.data.manifest import Manifest
from clipjax.data.pixels import loader, pixel_store
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.pixel_store import PixelStore, in_words, pixel_key
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.readers.flat import read_flat
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import forward
from clipjax.embeddings.sets import default_shard
from clipjax.errors import DataError, UsageError
from clipjax.storage.entry import Entry
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.store import Store
from tests.data._images import RECIPE, MemoryOpener, memory_manifest, write_images

N, ROWS, BATCH = 37, 4, 6  # images, rows per shard, images in a batch
SHARDS = -(-N // ROWS)


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore(tmp_path / "pixels")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As many items as images were decoded since it was cleared."""
    found, to_pixels = [], loader.to_pixels

    def counted(*arguments: Any) -> np.ndarray:
        found.append(1)
        return to_pixels(*arguments)

    monkeypatch.setattr(loader, "to_pixels", counted)
    return found


def read(source: Callable[..., Any], manifest: Manifest, recipe: PixelRecipe = RECIPE, **options: Any) -> Any:
    """All batches and what was skipped."""
    with source(manifest, recipe, **({"batch_size": BATCH} | options)) as iterator:
        return list(iterator), iterator.skipped


def assert_same(found: Any, expected: Any) -> None:
    assert found[1] == expected[1]
    for a, b in zip(found[0], expected[0], strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape)
            np.testing.assert_array_equal(a[key], b[key])


def shards(store: PixelStore) -> list[Path]:
    return sorted(Path(store.root).glob("*/*.safetensors"))


# ------------------------------------------------------------------------------------ the same bytes


def odd_images() -> Manifest:
    """Modes and sizes that decoders and resizers treat in ways of their own."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (45, 61, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    found = {
        "rgb.jpg": encoded(photo, "JPEG"),
        "exif.jpg": encoded(photo, "JPEG", exif=turned),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(photo.convert("L"), "JPEG"),
        "palette.png": encoded(photo.quantize(17), "PNG"),
        "palette.gif": encoded(photo.quantize(9), "GIF", transparency=3),
        "alpha.png": encoded(Image.fromarray(rng.integers(0, 256, (20, 99, 4), np.uint8)), "PNG"),
        "grey_alpha.png": encoded(photo.convert("LA"), "PNG"),
        "bits.png": encoded(photo.convert("1"), "PNG"),
        "deep.png": encoded(Image.fromarray(rng.integers(0, 65536, (30, 31), np.uint16)), "PNG"),
        "dot.png": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
        "line.png": encoded(photo.resize((4, 77)), "PNG"),
        "webp.webp": encoded(photo, "WEBP"),
    }
    return Manifest(tuple(found), MemoryOpener(tuple(found.values())), name="odd")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RECIPES = [
    PixelRecipe(24, 24, rgb="first"),
    PixelRecipe(24, 24, rgb="last"),
    PixelRecipe(24, 28, "squash", "bilinear", "first"),
    PixelRecipe(24, 24, "longest", "bicubic", "first"),
    PixelRecipe(25, 30, "shortest", "bicubic", "first", crop="floor"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=in_words)
def test_the_bytes_of_odd_images(store: PixelStore, recipe: PixelRecipe, decoded: list[int]):
    manifest = odd_images()
    expected = read(batches, manifest, recipe)
    assert_same(read(store.batches, manifest, recipe), expected)
    decoded.clear()
    assert_same(read(store.batches, manifest, recipe), expected)
    assert not decoded
    # The comparison sees another recipe.
    other = read(batches, manifest, dataclasses.replace(recipe, interpolation="bilinear", resize_size=31))
    assert any((a["pixels"] != b["pixels"]).any() for a, b in zip(other[0], expected[0]))


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 3), (1, None)])
def test_any_number_of_threads_and_workers(
    store: PixelStore, workers: int, threads: int | None, forked_workers: None
):
    manifest = memory_manifest(N)
    expected = read(batches, manifest)
    for _ in range(2):
        assert_same(read(store.batches, manifest, workers=workers, threads=threads), expected)
    assert len(shards(store)) == SHARDS


@pytest.mark.parametrize(
    "rows", [[0], [3, 4], [-1, 5, -1, -1, 6, 36], list(range(8, 30)), list(range(0, N, 5))]
)
def test_some_rows_with_padding(store: PixelStore, rows: list[int], decoded: list[int]):
    manifest = memory_manifest(N)
    expected = read(batches, manifest, rows=rows)
    assert_same(read(store.batches, manifest, rows=rows), expected)
    # Whoever asks for a row has its whole shard stored.
    needed = {row // ROWS for row in rows if row >= 0}
    assert {int(path.name[:5]) for path in shards(store)} == needed
    decoded.clear()
    assert_same(read(store.batches, manifest, rows=rows), expected)
    assert not decoded
    assert_same(read(store.batches, manifest), read(batches, manifest))


def test_options_that_are_refused(store: PixelStore):
    manifest = memory_manifest(N)
    with pytest.raises(ValueError, match="must ascend"):
        store.batches(manifest, RECIPE, batch_size=2, rows=[3, 2])
    for wrong in ({"batch_size": 0}, {"on_error": "ignore"}, {"workers": -1}):
        options: dict[str, Any] = {"batch_size": 2} | wrong
        with pytest.raises(UsageError):
            store.batches(manifest, RECIPE, **options)
    assert not Path(store.root).exists()


def test_shards_are_of_a_size_that_embeddings_are_made_of():
    for n, side in ((50_000, 224), (50_000, 336), (50_000, 16), (1000, 224), (9, 224), (1, 2000)):
        recipe = PixelRecipe(side, side)
        rows = pixel_store._rows_per_shard(n, recipe)
        assert rows * 3 * side**2 <= max(pixel_store.SHARD_BYTES, 3 * side**2)
        assert default_shard(50_000, 64) % rows == default_shard(10**7, 64) % rows == 0
    assert pixel_store._rows_per_shard(50_000, PixelRecipe(224, 224)) == 128


def test_memory_is_bounded(store: PixelStore, monkeypatch: pytest.MonkeyPatch):
    """However slow the consumer, only a few shards are read ahead of it."""
    manifest, loaded = memory_manifest(50 * ROWS), []
    monkeypatch.setattr(pixel_store, "SHARD_ROWS", ROWS)
    read(store.batches, manifest)
    load_shard = Entry.load_shard
    monkeypatch.setattr(Entry, "load_shard", lambda *a: loaded.append(a[1]) or load_shard(*a))
    with store.batches(manifest, RECIPE, batch_size=ROWS) as iterator:
        next(iterator)
        time.sleep(0.3)
        assert sorted(loaded) == list(range(len(loaded)))  # by several readers
        assert len(loaded) <= 1 + pixel_store.READERS + 4  # 4: batches that grain reads ahead, and one more
    assert len(shards(store)) == 50


# ------------------------------------------------------------------------------------ what happens to a store


def test_a_fill_that_was_stopped_goes_on(store: PixelStore, decoded: list[int]):
    manifest = memory_manifest(N)
    with store.batches(manifest, RECIPE, batch_size=2) as iterator:
        next(iterator)
    assert len(shards(store)) < SHARDS
    expected = read(batches, manifest)
    assert_same(read(store.batches, manifest), expected)
    assert len(shards(store)) == SHARDS
    for k in (0, 3, SHARDS - 1):  # as if it had been killed before these
        shards(store)[0].with_name(f"{k:05d}-of-{SHARDS:05d}.safetensors").unlink()
    left = {path.name: path.stat().st_ino for path in shards(store)}
    decoded.clear()
    assert_same(read(store.batches, manifest), expected)
    assert len(decoded) == 2 * ROWS + 1
    assert left.items() <= {path.name: path.stat().st_ino for path in shards(store)}.items()


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "another shard"])
def test_a_damaged_shard_is_named_and_made_again(
    store: PixelStore, damage: str, decoded: list[int], caplog: pytest.LogCaptureFixture
):
    manifest = memory_manifest(N)
    expected = read(store.batches, manifest)
    victim, whole = shards(store)[2], shards(store)[2].read_bytes()
    if damage == "bit":
        victim.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    elif damage == "another shard":
        shutil.copyfile(shards(store)[3], victim)
    else:
        os.truncate(victim, len(whole) // 2 if damage == "cut" else 0)
    decoded.clear()
    assert_same(read(store.batches, manifest), expected)
    assert len(decoded) == ROWS
    assert any(str(victim) in message and "damaged" in message for message in caplog.messages)
    assert victim.read_bytes() == whole
    decoded.clear()
    assert_same(read(store.batches, manifest), expected)
    assert not decoded


def test_a_changed_file_is_never_served_stale(store: PixelStore, tmp_path: Path, decoded: list[int]):
    root = write_images(tmp_path / "images", [f"{i}.png" for i in range(9)])
    before = read(store.batches, read_flat(epath.Path(root)))
    changed = root / "4.png"
    status = changed.stat()
    Image.new("RGB", (4, 4), (200, 0, 0)).save(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    decoded.clear()
    manifest = read_flat(epath.Path(root))
    after = read(store.batches, manifest)
    assert len(decoded) == 9
    assert_same(after, read(batches, manifest))
    assert any((a["pixels"] != b["pixels"]).any() for a, b in zip(before[0], after[0]))
    assert len(Store(store.root).ls()) == 2


def test_a_copy_elsewhere_reads_the_same_entry(store: PixelStore, tmp_path: Path, decoded: list[int]):
    names = [f"{i}.png" for i in range(9)]
    first = read(store.batches, read_flat(epath.Path(write_images(tmp_path / "a", names))))
    decoded.clear()
    assert_same(read(store.batches, read_flat(epath.Path(write_images(tmp_path / "b", names)))), first)
    assert not decoded


def test_recipes_and_decoders_do_not_mix(store: PixelStore, monkeypatch: pytest.MonkeyPatch):
    manifest = odd_images()
    for _ in range(2):
        for recipe in RECIPES:
            assert_same(read(store.batches, manifest, recipe), read(batches, manifest, recipe))
    infos = Store(store.root).ls()
    assert len(infos) == len(RECIPES)
    assert {info.about["pixels"] for info in infos} == {in_words(recipe) for recipe in RECIPES}
    key = pixel_key(manifest, RECIPE)
    monkeypatch.setattr("PIL.__version__", "1.1.7")
    assert pixel_key(manifest, RECIPE) != key


def test_two_runs_at_once(store: PixelStore):
    manifest = memory_manifest(N, broken=[9])
    expected = read(batches, manifest, on_error="skip")
    found: list[Any] = [None] * 4

    def run(i: int) -> None:
        found[i] = read(store.batches, manifest, on_error="skip", threads=1)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        assert_same(each, expected)
    assert len(shards(store)) == SHARDS


# ------------------------------------------------------------------------------------ unreadable images


def test_unreadable_images_are_skipped(store: PixelStore):
    manifest = memory_manifest(N, broken=[0, 13, 14, *range(20, 24), 36])  # 20 to 23 are a whole shard
    expected = read(batches, manifest, on_error="skip")
    assert len(expected[1]) == 8
    for _ in range(2):
        assert_same(read(store.batches, manifest, on_error="skip"), expected)
    assert len(shards(store)) == SHARDS


@pytest.mark.parametrize("skipped_before", [False, True])
def test_an_unreadable_image_stops_the_run_in_order(store: PixelStore, skipped_before: bool):
    manifest = memory_manifest(N, broken=[13, 30])
    if skipped_before:
        read(store.batches, manifest, on_error="skip")

    def until_it_stops(source: Callable[..., Any]) -> tuple[list[int], str]:
        rows = []
        with source(manifest, RECIPE, batch_size=4) as iterator:
            try:
                while True:
                    rows += next(iterator)["row"].tolist()
            except DataError as error:
                return rows, str(error)

    found = until_it_stops(store.batches)
    assert found == until_it_stops(batches)
    assert found[0] == list(range(12))
    # An image that nobody asks for stops nobody, though its shard is stored.
    rows = [12, *range(14, 16)]
    assert_same(read(store.batches, manifest, rows=rows), read(batches, manifest, rows=rows))


@dataclasses.dataclass(frozen=True)
class Moody(MemoryOpener):
    """Image 5 cannot be read while `out` says so, as on a network disk."""

    out: list[bool] = dataclasses.field(default_factory=lambda: [True])

    def open(self, i: int) -> bytes:
        if i == 5 and self.out[0]:
            raise DataError("image 5: the disk is away")
        return super().open(i)


def test_an_image_that_can_be_read_again_is_added(store: PixelStore, decoded: list[int]):
    whole = memory_manifest(N)
    opener = Moody(whole.opener.images)  # pyright: ignore[reportAttributeAccessIssue]
    manifest = dataclasses.replace(whole, opener=opener)
    _, [skipped] = read(store.batches, manifest, on_error="skip")
    assert (skipped.row, skipped.reason) == (5, "image 5: the disk is away")
    opener.out[0] = False
    expected = read(batches, manifest)
    decoded.clear()
    assert_same(read(store.batches, manifest), expected)
    assert len(decoded) == 1
    assert_same(read(store.batches, manifest), expected)
    assert len(decoded) == 1


# ------------------------------------------------------------------------------------ budget and disk


def size(n: int) -> int:
    return n * 3 * RECIPE.image_size**2


def test_a_data_set_beyond_the_budget_is_refused(tmp_path: Path):
    store = PixelStore(tmp_path / "pixels", budget=size(N) - 1)
    with pytest.raises(UsageError, match=r"pixels of memory \(37 images of 4 pixels\) take .*--pixel-budget"):
        store.batches(memory_manifest(N), RECIPE, batch_size=BATCH)
    assert not (tmp_path / "pixels").exists()
    read(PixelStore(tmp_path / "pixels", budget=size(N)).batches, memory_manifest(N))


def test_the_longest_unused_make_room(tmp_path: Path, decoded: list[int]):
    store = PixelStore(tmp_path / "pixels", budget=size(90))
    Store(store.root).entry({"output": "embedding"}, ids=["a"], rows_per_shard=1, per_device_batch=1)
    for age, n in ((500, 30), (900, 31), (100, 29)):
        read(store.batches, memory_manifest(n))
        [info] = [info for info in Store(store.root).ls() if info.rows == n]
        moment = time.time() - age
        os.utime(Path(store.root) / info.name / "key.json", (moment, moment))
    read(store.batches, memory_manifest(28))
    assert {info.rows for info in Store(store.root).ls()} == {
        30,
        29,
        28,
        1,
    }  # embeddings are not its business
    # Reading is use, and evicts nobody.
    read(store.batches, memory_manifest(30))
    read(store.batches, memory_manifest(32))
    assert {info.rows for info in Store(store.root).ls()} == {30, 28, 32, 1}
    assert not list(Path(store.root).glob(".*"))


def test_what_another_run_reads_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = PixelStore(tmp_path / "pixels", budget=size(50))
    manifest, other = memory_manifest(N), memory_manifest(40)
    with store.batches(manifest, RECIPE, batch_size=BATCH) as held:
        next(held)
        assert_same(read(store.batches, other), read(batches, other))
        assert "find no room (other runs read" in caplog.text
        assert Store(store.root).gc(0, dry_run=True) != []  # what was only begun may go
        assert N in {info.rows for info in Store(store.root).ls()}
        rows = [row for batch in held for row in batch["row"].tolist()]
    assert rows[: N - BATCH] == list(range(BATCH, N))
    assert len(list(shards(store))) == SHARDS
    # Once it is through, there is room.
    read(store.batches, other)
    assert {info.rows: info.shards_present for info in Store(store.root).ls()} == {40: 10}


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: bool
):
    """Known beforehand, or found out half-way: the run says so once, and its pixels are right."""
    manifest, create = memory_manifest(N), LocalFiles.create

    def refuse(self: Any, path: Any, data: bytes, **options: Any) -> bool:
        if path.name >= "00002" and path.suffix == ".safetensors":
            raise DataError(f"{path}: no space left while writing")
        return create(self, path, data, **options)

    with monkeypatch.context() as patch:
        if full:
            usage = shutil.disk_usage(Path(store.root).parent)
            patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
        else:
            patch.setattr(LocalFiles, "create", refuse)
        assert_same(read(store.batches, manifest), read(batches, manifest))
    assert [path.name[:5] for path in shards(store)] == ([] if full else ["00000", "00001"])
    assert len(caplog.messages) == 1
    assert re.search("no room .the disk has 0 MB to spare" if full else "no space left", caplog.text)
    assert_same(read(store.batches, manifest), read(batches, manifest))
    assert len(shards(store)) == SHARDS


# ------------------------------------------------------------------------------------ embeddings


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_tiny_images(folder / "images", N)
    return folder


def test_embeddings_are_bit_equal_with_and_without(
    work: Path, store: PixelStore, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
):
    manifest = manifest_of(work / "images", N)
    options: dict[str, Any] = {"per_device_batch": 2, "rows_per_shard": 6, "progress": False}
    expected = [embed_images(TinyModel(seed), manifest, **options).array for seed in (0, 1)]
    assert (expected[0] != expected[1]).any()
    embeddings = Store(work / "embeddings")
    for devices, kept in ((8, embeddings), (1, None), (8, None)):
        monkeypatch.setattr(forward, "local_mesh", lambda n=devices: make_mesh(jax.devices()[:n]))
        decoded.clear()
        for seed, array in enumerate(expected):
            model = TinyModel(seed, fingerprint=f"tiny-{seed}")
            found = embed_images(model, manifest, store=kept, pixel_store=store, **options)
            np.testing.assert_array_equal(found.array, array)
        assert len(decoded) == (N if kept is not None else 0)  # the first model's; the second one read them
