"""Corrupted copies on disk: depth files, the layout of ImageNet-3DCC, interruptions, bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from _corrupted_world import CLASSES, FOG, SIZE, write_world
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.commands.runs.corrupt import severities_of
from clipjax.corruptions.corruption import find_corruption
from clipjax.corruptions.runner import Runner
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.corrupted import depth as depths
from clipjax.data.corrupted import write
from clipjax.data.pixels.preprocess import to_pixels
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return write_world(tmp_path)


def corrupt(
    world: Path, kinds: tuple[str, ...] = (FOG,), out: str = "out", **options
) -> list[write.CorruptedFolder]:
    options = {"depth": world / "depth", "severities": [3], **options}
    return clipjax.corrupt(world / "images", world / out, kinds, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_card_of_imagenet_3dcc_reads_what_is_written(world: Path) -> None:
    [done] = corrupt(world, out="ImageNet-3DCC")
    assert (done.images, done.kept, done.skipped) == (3, 0, ())
    card = read_card(f"imagenet_3dcc:{FOG}:3")
    assert world / str(card.place) == done.folder
    small = dataclasses.replace(card, label_space=None, classes=CLASSES)
    manifest = load_dataset(small, done.folder).manifest
    assert manifest.ids == ("n01440764/a.png", "n01440764/b.png", "n01443537/c.png")
    with PIL.Image.open(world / "images/n01443537/c.JPEG") as image:
        pixels = to_pixels(image, depths.PREPARATION)[None]
    depth = depths.prepared_depth(world / "depth/n01443537/c.png", "c", SIZE, "inverse")
    expected = Runner(find_corruption(FOG), 3)(pixels, ["n01443537/c.JPEG"], {"depth": depth[None]})[0]
    with PIL.Image.open(done.folder / "n01443537/c.png") as image:
        assert image.size == (224, 224)
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_row_on_copies_says_how_they_were_made(world: Path) -> None:
    [flash] = corrupt(world, ("flash",))
    card = dataclasses.replace(read_card("imagenet_3dcc:flash:3"), label_space=None, classes=CLASSES)
    made = load_dataset(card, flash.folder).made
    assert made is not None
    assert made.startswith(
        "clipjax corrupt, not the published images: flash (version 1), severity 3, seed 0, PNG"
    )
    assert "a substitute for a reshading network" in made
    assert load_dataset(card, world / "images").made is None
    (flash.folder / write.RECORD).write_text('{"corruption": "flash"}')
    with pytest.raises(DataError, match=r"corruption\.json has no usable 'severity': write the images again"):
        load_dataset(card, flash.folder)


def test_a_packed_copy_keeps_the_record(world: Path) -> None:
    [flash] = corrupt(world, ("flash",))
    card = dataclasses.replace(read_card("imagenet_3dcc:flash:3"), label_space=None, classes=CLASSES)
    loose = load_dataset(card, flash.folder)
    for attempt in ("packed", "packed again"):
        given = ["datasets", "pack", str(flash.folder), str(world / "packed")]
        assert CliRunner().invoke(app, given).exit_code == 0, attempt
        packed = load_dataset(card, world / "packed")
        assert (packed.made, packed.manifest.digest) == (loose.made, loose.manifest.digest)
        (world / "packed" / write.RECORD).unlink()  # as packed before it was kept
    assert load_dataset(card, world / "packed").made is None


def test_the_record_beside_the_images(world: Path) -> None:
    done = corrupt(world, ("flash", FOG), jpeg_quality=85)
    flash, fog = (json.loads((each.folder / write.RECORD).read_text()) for each in done)
    assert "substitute" in flash["inputs"]["reshading"]
    assert fog["inputs"] == {"depth": "inverse"}
    assert fog["constants"] == {"attenuation": 12}
    assert fog["format"] == "JPEG, quality 85"
    assert "own mean" in fog["convention"]
    assert (done[1].folder / "n01440764/a.JPEG").is_file()
    assert (done[1].folder / "n01440764/b.jpg").is_file()


def test_a_folder_of_reshadings_replaces_the_substitute(world: Path) -> None:
    """Its first channel counts: 51/255 everywhere."""
    for path in (world / "depth").rglob("*.png"):
        file = world / "reshading" / path.relative_to(world / "depth")
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", SIZE, (51, 200, 90)).save(file)
    [done] = corrupt(world, ("flash",), depth=None, reshading=world / "reshading")
    assert json.loads((done.folder / write.RECORD).read_text())["inputs"] == {"reshading": "files"}
    with PIL.Image.open(world / "images/n01440764/b.png") as image:
        pixels = to_pixels(image, depths.PREPARATION)[None]
    shading = np.full((1, 224, 224), 0.2, np.float32)
    expected = Runner(find_corruption("flash"), 3)(pixels, ["n01440764/b.png"], {"reshading": shading})[0]
    with PIL.Image.open(done.folder / "n01440764/b.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    (world / "reshading/n01440764/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: the reshading of n01440764/a.JPEG does not exist"):
        corrupt(world, ("flash",), out="again", depth=None, reshading=world / "reshading")


def test_the_same_files_on_one_device_and_after_an_interruption(
    world: Path, one_device: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(write, "local_mesh", lambda: make_mesh(one_device))
        [whole] = corrupt(world)
    put, puts = write._Target.put, []

    def stop(target: write._Target, row: int, data: bytes) -> None:
        if puts:
            raise KeyboardInterrupt
        puts.append(row)
        put(target, row, data)

    with monkeypatch.context() as patch:
        patch.setattr(write._Target, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            corrupt(world, out="again")
    assert not (world / "again" / FOG / "3").exists()
    [resumed] = corrupt(world, out="again")
    assert resumed.kept == 1
    assert files(resumed.folder) == files(whole.folder)
    assert corrupt(world, out="again")[0].kept == 3
    with pytest.raises(DataError, match="holds another corruption or other images"):
        corrupt(world, out="again", seed=1)
    with pytest.raises(DataError, match="holds another corruption or other images"):
        corrupt(world, out="again", limit=2)


def test_other_files_of_the_same_names_are_not_mixed_in(world: Path) -> None:
    corrupt(world, (FOG, "gaussian_noise"))
    depth, image = world / "depth/n01440764/a.png", world / "images/n01440764/a.JPEG"
    depth.unlink()
    assert corrupt(world)[0].kept == 3  # a missing first file is not compared
    PIL.Image.fromarray(np.full(SIZE[::-1], 9000, np.uint16)).save(depth)
    with pytest.raises(DataError, match=r"or other images \(corruption.json differs in first_files\)"):
        corrupt(world)
    assert corrupt(world, ("gaussian_noise",))[0].kept == 3  # noise needs no depth
    PIL.Image.new("RGB", SIZE).save(image)
    with pytest.raises(DataError, match="differs in first_files"):
        corrupt(world, ("gaussian_noise",))
    (world / "out" / FOG / "3" / write.RECORD).unlink()
    with pytest.raises(DataError, match=r"\(it has no corruption.json\)"):
        corrupt(world)


def test_a_missing_depth_leaves_an_image_out_of_the_kinds_that_need_it(world: Path) -> None:
    (world / "depth/n01440764/b.png").unlink()
    noise, fog, flash = corrupt(world, ("gaussian_noise", FOG, "flash"), on_error="skip")
    assert (noise.images, noise.skipped) == (3, ())
    assert fog.images == flash.images == 2
    assert len(fog.skipped) == 1
    assert fog.skipped == flash.skipped
    (world / "images/n01440764/a.JPEG").write_bytes(b"damaged")
    noise, fog = corrupt(world, ("gaussian_noise", FOG), out="again", on_error="skip")
    assert (noise.images, fog.images) == (2, 1)


def test_depth_is_read_as_unsigned_16_bit(tmp_path: Path) -> None:
    values = np.full((224, 224), 40000, np.uint16)  # -25536 as signed
    values[:, 112:] = 65535
    PIL.Image.fromarray(values).save(tmp_path / "d.png")
    inverse = depths.prepared_depth(tmp_path / "d.png", "d", (224, 224), "inverse")
    assert inverse[0, 0] == np.float32(1 / (40000 / 512 + 1e-6))
    assert inverse[0, -1] == np.float32(1 / (65535 / 512 + 1e-6))
    values[:, :112] = 4000
    values[0, 0] = 7999
    PIL.Image.fromarray(values).save(tmp_path / "d.png")
    metric = depths.prepared_depth(tmp_path / "d.png", "d", (224, 224), "metric")
    assert metric[100, 20] == 0.5
    assert metric[100, 200] == np.float32(7999 / 8000)  # not a measurement: the largest


def test_far_inverse_depth_is_clamped(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((50, 60), 3, np.uint16)).save(tmp_path / "d.png")
    assert (depths.prepared_depth(tmp_path / "d.png", "d", (60, 50), "inverse") == 0.5).all()


def test_a_wall_seen_straight_is_bright_and_a_tilted_one_is_dark() -> None:
    flat = depths.shading_of_depth(np.ones((32, 32), np.float32))
    assert flat[16, 16] > 0.99
    ramp = np.tile(np.linspace(1, 3, 32, dtype=np.float32), (32, 1))
    assert depths.shading_of_depth(ramp)[16, 16] < 0.8


def test_bad_files_are_one_sentence_each_and_can_be_skipped(world: Path) -> None:
    missing, zeros = world / "depth/n01440764/a.png", world / "depth/n01440764/b.png"
    missing.unlink()
    with pytest.raises(DataError, match=r"a\.png: the depth of n01440764/a.JPEG does not exist[^;]*$"):
        corrupt(world)
    assert not [*(world / "out").iterdir()]  # nothing was begun
    kept = rf"a.JPEG does not exist.*; finished images are kept in {world}/both/gaussian_noise/\.3\.part: the"
    with pytest.raises(DataError, match=kept):
        corrupt(world, ("gaussian_noise", FOG), out="both")
    assert [path.name for path in (world / "both").iterdir()] == ["gaussian_noise"]
    PIL.Image.fromarray(np.zeros(SIZE[::-1], np.uint16)).save(zeros)
    [done] = corrupt(world, on_error="skip")
    assert done.images == 1
    assert [reason.split(": ")[1] for reason in done.skipped] == [
        "the depth of n01440764/a.JPEG does not exist",
        "the depth of n01440764/b.png is zero everywhere; replace it",
    ]
    assert json.loads((done.folder / write.RECORD).read_text())["images"] == 1


@pytest.mark.parametrize(
    ("depth", "kind", "message"),
    [
        (np.ones((4, 5), np.uint16), "inverse", "the depth has 5 x 4 pixels, and its image i has 6 x 4"),
        (np.ones((4, 6), np.uint8), "inverse", "expected one channel of 16 bits, found mode L"),
        (np.full((4, 6), 65535, np.uint16), "metric", "no value of the depth of i is between 1 and 7999"),
    ],
)
def test_depth_that_is_refused(tmp_path: Path, depth: np.ndarray, kind: str, message: str) -> None:
    PIL.Image.fromarray(depth).save(tmp_path / "i.png")
    with pytest.raises(DataError, match=message):
        depths.prepared_depth(tmp_path / "i.png", "i", (6, 4), kind)


def test_what_is_refused_before_anything_is_read(world: Path) -> None:
    with pytest.raises(UsageError, match="fog_3d needs depth: name the folder of its files with --depth"):
        corrupt(world, depth=None)
    with pytest.raises(
        UsageError,
        match=r"--reshading, or of its depth for a substitute \(--depth\), or",
    ):
        corrupt(world, ("flash",), depth=None)
    with pytest.raises(UsageError, match="name at least one kind"):
        corrupt(world, ())
    with pytest.raises(UsageError, match="unknown kind of depth 'metres'"):
        corrupt(world, depth_kind="metres")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        corrupt(world, depth=world / "nowhere")
    with pytest.raises(UsageError, match="a JPEG quality is 1 to 100, not 0"):
        corrupt(world, jpeg_quality=0)
    with pytest.raises(UsageError, match="on_error must be"):
        corrupt(world, on_error="ignore")
    with pytest.raises(UsageError, match="is in the data set"):
        corrupt(world, out="images/out")
    (world / "images/n01440764/a.png").write_bytes((world / "images/n01440764/b.png").read_bytes())
    with pytest.raises(DataError, match=r"would both be written as n01440764/a\.png"):
        corrupt(world)


def test_the_command(world: Path) -> None:
    given = ["corrupt", str(world / "images"), "--depth", str(world / "depth"), "--out", str(world / "out")]
    done = CliRunner().invoke(app, [*given, "--kind", f"{FOG}, flash", "--severity", "2", "--limit", "2"])
    assert done.exit_code == 0, done.output
    assert f"{world}/out/flash/2: 2 images, 0 of them kept" in done.output
    assert sorted(path.name for path in (world / "out").iterdir()) == ["flash", FOG]
    assert severities_of("1-3, 5") == [1, 2, 3, 5]
    for wrong in ("0", "3-1", "", "1-6"):
        with pytest.raises(UsageError, match="a range 1-5"):
            severities_of(wrong)


def test_frost_is_taken_from_a_folder_and_named_in_the_record(world: Path) -> None:
    frost = world / "frost"
    frost.mkdir()
    for seed in (0, 1):
        picture = np.random.default_rng(seed).integers(0, 256, (230, 260, 3), np.uint8)
        PIL.Image.fromarray(picture).save(frost / f"frost{seed}.png")
    with pytest.raises(UsageError, match="frost needs frost: name the folder of its files with --frost, or"):
        corrupt(world, ("frost",))
    records = []
    for out in ("one", "two"):
        [done] = corrupt(world, ("frost",), out=out, frost=frost, severities=[5], jpeg_quality=85)
        assert done.images == 3
        records.append(json.loads((done.folder / write.RECORD).read_text()))
        PIL.Image.fromarray(picture[::-1]).save(frost / "frost1.png")
    assert len(records[0]["inputs"]["frost"]) == 64
    assert records[0]["inputs"] != records[1]["inputs"]
    one, two = (files(world / out / "frost" / "5") for out in ("one", "two"))
    assert one.pop(write.RECORD) != two.pop(write.RECORD)
    assert len(one) == 3
    assert one.keys() == two.keys()
    assert one != two
