"""Images corrupted while they are read: the bits of the PNG copies, by every way through the loader."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest
from _colours import ColourModel
from _corrupted_world import write_world
from _embed_tools import TinyModel
from _long import mostly_long
from _records import embed_images, embed_many

import clipjax
from clipjax.corruptions.corruption import find_corruption
from clipjax.data.cards import Dataset, load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.data.corrupted import batches as corrupted_batches
from clipjax.data.corrupted import inputs
from clipjax.data.corrupted.opener import CorruptionTable
from clipjax.data.manifest import ChangedError, Manifest
from clipjax.data.pack import pack
from clipjax.data.pixels.augment import Augmentation
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.pixel_store import PixelStore, pixel_key
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels
from clipjax.data.pixels.training_batches import training_batches
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.storage.store import Store
from clipjax.sweep.suite import load_suite

pytestmark = pytest.mark.usefixtures("one_device")
CARD = """
name = "val"
title = "Corrupted on reading: {kind}, severity {severity}"
reader = "folder"
label_space = "labels.csv"

[pixels]
already_cropped = true

[corruption]
kind = "{kind}"
severity = "{severity}"
depth = "depth"

[variants]
kind = ["fog_3d", "flash", "brightness"]
severity = [3, 5]
"""
FOG = "val.toml:fog_3d:3"
RECIPE = PixelRecipe(16, 16, rgb="first")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "val.toml").write_text(CARD)
    (tmp_path / "labels.csv").write_text("id,name\nn01440764,red\nn01443537,blue\n")
    return write_world(tmp_path)


def load(world: Path, member: str = FOG) -> Dataset:
    return load_dataset(world / member, world / "images")


def pixels(manifest: Manifest, **how: Any) -> np.ndarray:
    with batches(manifest, RECIPE, batch_size=4, **how) as source:
        return np.concatenate([batch["pixels"][batch["row"] >= 0] for batch in source])


def whole_of(manifest: Manifest) -> Manifest:
    return manifest


def part_of(manifest: Manifest) -> Manifest:
    return manifest.select([2, 0])


def of_copies(world: Path, kind: str = "fog_3d", **inputs: Path) -> np.ndarray:
    """Pixels of the PNG files that `clipjax corrupt` writes."""
    given: dict[str, Any] = {"depth": world / "depth", **inputs}
    [done] = clipjax.corrupt(world / "images", world / "out", [kind], severities=[3], **given)
    return np.stack([to_pixels(open_image(file), RECIPE) for file in sorted(done.folder.rglob("*.png"))])


def test_a_row_is_that_of_the_copies(world: Path) -> None:
    """Value, interval and every image's confidence; the row states how they were made."""
    eyes = ColourModel()
    sizes = {"image_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "logit_scale": 20.0}
    model = clipjax.wrap(eyes.encode_image, eyes.encode_text, name="m", fingerprint="m", **sizes)
    of_copies(world)
    card = read_card(world / FOG)
    how: dict[str, Any] = {"prompts": "single", "store": world / "store", "progress": False}
    plain = dataclasses.replace(card, corruption=None)
    copies = clipjax.evaluate(model, dataset=plain, root=world / "out/fog_3d/3", **how)
    reading = clipjax.evaluate(model, dataset=card, root=world / "images", **how)
    for one, other in zip(copies.rows, reading.rows, strict=True):
        assert [one[key] for key in ("metric", "slice", "value", "interval", "n")] == [
            other[key] for key in ("metric", "slice", "value", "interval", "n")
        ]
    for column in ("prediction", "confidence", "correct"):
        assert copies.images[column].to_pylist() == reading.images[column].to_pylist()
    assert reading.images["id"].to_pylist() == ["n01440764/a.JPEG", "n01440764/b.png", "n01443537/c.JPEG"]
    version = find_corruption("fog_3d").version
    made = f"clipjax corrupt, not the published images: fog_3d (version {version}), severity 3, seed 0, {{}};"
    assert copies.rows[0]["convention"]["made"].startswith(made.format("PNG"))
    assert reading.rows[0]["convention"]["made"].startswith(made.format("on reading"))
    assert copies.rows[0]["recipe"]["images"] != reading.rows[0]["recipe"]["images"]
    with pytest.raises(UsageError, match=r"images of val:fog_3d:3 are decoded in full before they are corr"):
        clipjax.evaluate(model, dataset=card, root=world / "images", decode="jpeg_scaled", progress=False)
    again = clipjax.evaluate(model, dataset=card, root=world / "images", workers="auto", progress=False)
    assert again.images["id"] == reading.images["id"]


def test_the_card_and_the_suite_of_the_docs(world: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/how_to/corruptions.md").read_text()
    card, suite = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (world / "val_3d.toml").write_text(card)
    file = world / "suites" / "suite.toml"
    file.parent.mkdir()
    file.write_text(suite)
    read = read_card(world / "val_3d.toml:near_focus:5")
    assert read.corruption == CorruptionTable("near_focus", 5, depth="depth/val")
    assert read.title == "ImageNet val: near_focus, severity 5"
    assert read.place == read_card("imagenet_val").place
    [run] = load_suite(file, data_root=world).runs
    assert run.datasets == ("val_3d",)


@pytest.mark.parametrize("kind", ["fog_3d", "flash"])
def test_the_pixels_of_the_copies(world: Path, kind: str) -> None:
    manifest = load(world, f"val.toml:{kind}:3").manifest
    found = pixels(manifest)
    np.testing.assert_array_equal(found, of_copies(world, kind))
    assert (found != pixels(load_dataset("folder", world / "images").manifest)).any()
    np.testing.assert_array_equal(pixels(manifest.select([2, 0])), found[[2, 0]])


def test_devices_workers_and_the_pixel_store_change_no_bit(
    world: Path, one_device: list[Any], monkeypatch: pytest.MonkeyPatch, forked_workers: None
) -> None:
    manifest = load(world).manifest
    expected = pixels(manifest, rows=[0, 1, 2])
    np.testing.assert_array_equal(pixels(manifest, workers=1), expected)
    with monkeypatch.context() as patch:
        patch.setattr(corrupted_batches, "local_mesh", lambda: make_mesh(one_device))
        np.testing.assert_array_equal(pixels(manifest), expected)
    store = PixelStore(world / "pixels")
    for _ in range(2):
        with store.batches(manifest, RECIPE, batch_size=2) as source:
            stored = np.concatenate([batch["pixels"][batch["row"] >= 0] for batch in source])
        np.testing.assert_array_equal(stored, expected)
        shutil.rmtree(world / "depth")  # the second time all is stored
        (world / "depth").mkdir()


def test_in_one_stream_with_other_data_sets(world: Path) -> None:
    sets = [load_dataset("folder", world / "images").manifest, load(world).manifest]
    model = TinyModel()
    how = {"per_device_batch": 2, "progress": False, "recipe": RECIPE}
    alone = [embed_images(model, each, **how).array for each in sets]
    together = embed_many(model, sets, store=Store(world / "store"), **how)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(other.array, one)
    assert (alone[0] != alone[1]).any()


def test_an_entry_is_named_by_everything_that_decides_the_pixels(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(world)
    keys = [json.dumps(pixel_key(whole.manifest, RECIPE), sort_keys=True)]

    def other(data: Dataset) -> None:
        key = json.dumps(pixel_key(data.manifest, RECIPE), sort_keys=True)
        assert key not in keys
        keys.append(key)

    other(load_dataset("folder", world / "images"))
    other(load(world, "val.toml:fog_3d:5"))
    other(load(world, "val.toml:flash:3"))
    for change in ({"seed": 1}, {"depth_kind": "metric"}):
        assert whole.card.corruption is not None
        table = dataclasses.replace(whole.card.corruption, **change)
        other(load_dataset(dataclasses.replace(whole.card, corruption=table), world / "images"))
    depth = world / "depth/n01440764/b.png"
    data = depth.read_bytes()
    depth.unlink()
    other(load(world))
    PIL.Image.fromarray(np.full((280, 300), 9000, np.uint16)).save(depth)
    other(load(world))
    depth.write_bytes(data)
    assert load(world).manifest.digest == whole.manifest.digest
    assert "corrupted_by" not in keys[1]
    monkeypatch.setattr(jax, "__version__", "0")
    other(load(world))


def test_a_file_that_cannot_be_used_is_named_or_left_out(world: Path) -> None:
    (world / "depth/n01440764/b.png").unlink()
    (world / "images/n01440764/a.JPEG").write_bytes(b"damaged")
    manifest = load(world).manifest
    with pytest.raises(DataError, match=r"a\.JPEG: not an image .* \(clipjax eval can leave such images"):
        pixels(manifest)
    with pytest.raises(DataError, match=r"b\.png: the depth of n01440764/b\.png does not exist"):
        pixels(manifest, rows=[2, 1])
    with batches(manifest, RECIPE, batch_size=4, on_error="skip") as source:
        [batch] = source
        assert batch["row"].tolist() == [-1, -1, 2, -1]
        assert not batch["pixels"][[0, 1, 3]].any()
        assert [each.row for each in source.skipped] == [0, 1]
    assert len(pixels(load(world, "val.toml:brightness:3").manifest, rows=[1])) == 1
    problems = check_dataset(world / "images", world / FOG)
    assert [problem.partition(": ")[2] for problem in problems] == [
        "not an image in JPEG, PNG, PPM, BMP, TIFF, WebP or GIF (7 bytes); replace or remove it",
        "the depth of n01440764/b.png does not exist",
    ]


def test_a_program_that_fails_costs_its_batch(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DataError("ffmpeg ended with 1: no")

    monkeypatch.setattr(corrupted_batches.Runner, "__call__", fail)
    with pytest.raises(
        DataError, match=r"^fog_3d of the images n01440764/a.JPEG to n01443537/c.JPEG: ffmpeg ended with 1"
    ):
        pixels(load(world).manifest)


def test_what_takes_files_is_refused(world: Path) -> None:
    manifest = load(world).manifest
    refused = pytest.raises(UsageError, match="are only for evaluation: write them with `clipjax corrupt`")
    with refused:
        pack(manifest, world / "packed", "webdataset")
    assert not (world / "packed").exists()
    with refused:
        training_batches(manifest, RECIPE, batch_size=2, seed=0)
    with refused:
        batches(manifest, RECIPE, batch_size=2, augmentation=Augmentation())
    with refused:
        clipjax.corrupt(world / "images", world / "out", ["fog_3d"], dataset=str(world / FOG))
    with refused:
        manifest.open(0)


@pytest.mark.parametrize(
    ("words", "others", "says"),
    [
        ('kind = "{kind}"', 'kind = "fogs"', "corruption: unknown corruption 'fogs'; did you mean fog"),
        ('severity = "{severity}"', "severity = 6", "a severity is one of 1, 2, 3, 4, 5, not 6"),
        ('depth = "depth"', 'depth = "nowhere"', "nowhere is not a folder"),
        ('depth = "depth"', "", r"fog_3d needs depth: .* in a card as depth in the table \[corruption\]"),
        ('depth = "depth"', 'depth = "gs://b/depth"', "are read on a disk: copy the folder to one"),
        ("[pixels]", 'split = "train"\n[pixels]', "for evaluation, one by one: leave .corruption. out"),
    ],
)
def test_a_wrong_table(world: Path, words: str, others: str, says: str) -> None:
    (world / "val.toml").write_text(CARD.replace(words, others))
    with pytest.raises((DataError, UsageError), match=says):
        load(world)


def test_copies_are_not_corrupted_again(world: Path) -> None:
    of_copies(world)
    with pytest.raises(DataError, match=r"holds corrupted copies \(corruption.json\): give the images"):
        load_dataset(world / FOG, world / "out/fog_3d/3")


def test_draws_and_pictures_of_frost_are_those_of_the_copies(world: Path) -> None:
    """The pictures stay in this process: workers get none."""
    frost = world / "frost"
    frost.mkdir()
    for seed in range(3):
        picture = np.random.default_rng(seed).integers(0, 256, (230, 300, 3), np.uint8)
        PIL.Image.fromarray(picture).save(frost / f"{seed}.png")
    table = CARD.replace('kind = "{kind}"', 'kind = "frost"').replace('depth = "depth"', 'frost = "frost"')
    (world / "val.toml").write_text(table)
    manifest = load(world).manifest
    np.testing.assert_array_equal(pixels(manifest), of_copies(world, "frost", frost=frost))
    element = corrupted_batches.CorruptedElement(manifest.opener)  # type: ignore[arg-type]
    assert element._opener.inputs == inputs.CorruptionInputs()


@pytest.mark.parametrize("changed", ["images/n01443537/c.JPEG", "depth/n01443537/c.png"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("part", mostly_long([whole_of, part_of], keep=[part_of]))
def test_files_that_change_after_they_were_hashed_are_refused(
    world: Path, changed: str, on_error: str, part: Any
) -> None:
    """The image, or the depth beside it; also with `skip`: nothing is wrong with the image."""
    manifest, file = load(world).manifest, world / changed
    own = pixels(part(manifest))
    manifest.compute_digest()
    np.testing.assert_array_equal(pixels(part(manifest)), own)
    data = file.read_bytes()
    file.write_bytes(data + b"\n")  # still decoded
    says = r"c\.JPEG or its depth changes while it is read: run again when it is written"
    with pytest.raises(ChangedError, match=says):
        pixels(part(manifest), on_error=on_error)
    np.testing.assert_array_equal(pixels(part(load(world).manifest)), own)
    file.write_bytes(data)
    np.testing.assert_array_equal(pixels(part(manifest)), own)


def test_a_depth_that_appears_or_goes_is_refused(world: Path) -> None:
    file = world / "depth/n01443537/c.png"
    data, whole = file.read_bytes(), load(world).manifest
    whole.compute_digest()
    file.unlink()
    with pytest.raises(ChangedError):
        pixels(whole)
    lacking = load(world).manifest
    lacking.compute_digest()
    assert len(pixels(lacking, on_error="skip")) == 2
    file.write_bytes(data)
    with pytest.raises(ChangedError):
        pixels(lacking, on_error="skip")
