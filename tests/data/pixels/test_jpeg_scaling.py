"""JPEGs decoded smaller: which, by how much, with what geometry; and a recipe of its own."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from _colours import ColourModel
from _long import mostly_long
from PIL import Image

import clipjax
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.pixel_store import PixelStore, in_words
from clipjax.data.pixels.preprocess import PixelRecipe, Scale, open_image, open_scaled, to_pixels
from clipjax.errors import DataError, UsageError
from tests.data._images import MemoryOpener

FULL = PixelRecipe(56, 64, rgb="first")
SCALED = dataclasses.replace(FULL, decode="jpeg_scaled")


def jpeg(width: int, height: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """A smooth scene of soft spots."""
    across, down = np.linspace(0, 14, width)[None, :], np.linspace(0, 11, height)[:, None]
    spots = np.sin(across) * np.cos(down)
    pixels = np.stack([128 + strength * spots for strength in (90, 110, 70)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def pixels(data: bytes, recipe: PixelRecipe) -> np.ndarray:
    if recipe.decode == "full":
        return to_pixels(open_image(data), recipe)
    image, scale = open_scaled(data, "it", recipe)
    return to_pixels(image, recipe, scale)


@pytest.mark.parametrize(
    ("size", "shrink"),
    [
        ((255, 900), 1),  # a short side of 255 is less than four times 64
        ((256, 256), 2),
        ((900, 511), 2),
        ((512, 700), 4),
        ((1023, 1100), 4),
        ((1024, 1024), 8),
        ((2060, 2048), 8),  # no decoder makes them 16 times smaller
    ],
)
def test_how_much_smaller(size: tuple[int, int], shrink: int):
    data = jpeg(*size)
    image, scale = open_scaled(data, "it", SCALED)
    assert scale == (Scale(size, shrink) if shrink > 1 else None)
    assert image.size == tuple(-(-side // shrink) for side in size)
    assert pixels(data, SCALED).shape == (56, 56, 3)


@pytest.mark.parametrize("mode", mostly_long(["RGB", "L", "CMYK"], keep=["RGB", "CMYK"]))
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(1001, 1503), (777, 519), (1601, 1031)])
def test_every_pixel_comes_from_where_it_came(mode: str, resize: str, size: tuple[int, int]):
    """Of a smooth image nothing is lost but rounding, and nothing is shifted."""
    data = jpeg(*size, mode)
    full = dataclasses.replace(FULL, resize_mode=resize)  # pyright: ignore[reportArgumentType]
    scaled = dataclasses.replace(full, decode="jpeg_scaled")
    assert open_scaled(data, "it", scaled)[1] is not None
    expected, found = (pixels(data, recipe).astype(float) for recipe in (full, scaled))
    assert 0 < np.abs(found - expected).max() <= 2  # not the same bytes, and not said to be
    assert np.abs(shifts(found[..., 2], expected[..., 2])).max() < 0.01
    assert np.abs(shifts(np.roll(found[..., 2], 1, axis=1), expected[..., 2])).max() > 0.5


def shifts(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """By how many pixels [2] one image lies beside the other, in least squares."""
    inside = np.s_[8:-8, 8:-8]
    slopes = np.stack([each[inside].ravel() for each in np.gradient(expected)], axis=1)
    slopes = np.column_stack([slopes, np.ones(len(slopes))])
    return np.linalg.lstsq(slopes, (found - expected)[inside].ravel())[0][:2]


@pytest.mark.parametrize(
    ("size", "kind", "recipe"),
    [
        ((300, 200), "JPEG", SCALED),
        ((1000, 900), "PNG", SCALED),
        ((1000, 900), "WEBP", SCALED),
        ((1000, 900), "JPEG", dataclasses.replace(SCALED, pre_crop=2)),
    ],
    ids=["small", "png", "webp", "border"],
)
def test_others_are_decoded_in_full(size: tuple[int, int], kind: str, recipe: PixelRecipe):
    data = jpeg(*size, kind=kind)
    assert open_scaled(data, "it", recipe)[1] is None
    np.testing.assert_array_equal(
        pixels(data, recipe), pixels(data, dataclasses.replace(recipe, decode="full"))
    )


def test_damage_is_named():
    with pytest.raises(DataError, match=r"^it: "):
        open_scaled(jpeg(1000, 1000)[:4000], "it", SCALED)
    with pytest.raises(DataError, match="it: not an image"):
        open_scaled(b"no image", "it", SCALED)


def test_it_is_a_recipe_of_its_own(tmp_path: Path):
    assert SCALED.key() == {**FULL.key(), "decode": "jpeg_scaled"}
    assert "decode" not in FULL.key()  # what was stored before keeps its key
    assert in_words(SCALED) == f"{in_words(FULL)}, JPEGs decoded smaller"
    with pytest.raises(UsageError, match="unknown way to decode 'jpeg_scale'; did you mean jpeg_scaled"):
        dataclasses.replace(FULL, decode="jpeg_scale")  # pyright: ignore[reportArgumentType]
    images = (jpeg(1001, 703), jpeg(200, 300), jpeg(500, 500, kind="PNG"), jpeg(1101, 1031, "L"))
    manifest = Manifest(tuple("abcd"), MemoryOpener(images))
    store = PixelStore(tmp_path)
    for recipe in (FULL, SCALED, FULL, SCALED):
        for source in (batches, store.batches):
            with source(manifest, recipe, batch_size=4) as found:
                [batch] = found
            expected = np.stack([pixels(image, recipe) for image in images])
            np.testing.assert_array_equal(batch["pixels"], expected)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_rows_say_so(tmp_path: Path):
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (400, 300), name).save(tmp_path / "data" / name / "0.jpg")
    settings = {"root": tmp_path / "data", "prompts": "single", "progress": False, "resamples": 2}
    settings |= {"store": tmp_path / "store"}
    model = ColourModel(fingerprint="colours")
    full = clipjax.evaluate(model, **settings)
    scaled = clipjax.evaluate(model, decode="jpeg_scaled", **settings)
    assert scaled.stats.images == 2  # not those stored before
    (a, *_), (b, *_) = full.rows, scaled.rows
    assert a["recipe_hash"] != b["recipe_hash"]
    assert "decode" not in a["convention"]
    assert b["convention"]["decode"].endswith("not the reference's pixels")
    assert b["recipe"]["pixels"]["decode"] == "jpeg_scaled"
    assert full.value("top1") == scaled.value("top1") == 1
    with pytest.raises(UsageError, match="unknown way to decode 'half'"):
        clipjax.evaluate(model, decode="half", **settings)
