"""Random resized crop and flip: torchvision's pixels, torchvision's distribution, and draws that are nobody
else's."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
import torch
from _long import mostly_long
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from clipjax.data.manifest import Manifest, Opener, Progress
from clipjax.data.pixels import training_batches as training_batches_module
from clipjax.data.pixels.augment import (
    Augmentation,
    Box,
    augmented_pixels,
    crop_pixels,
    image_generator,
    sample_box,
)
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, to_pixels
from clipjax.data.pixels.training_batches import training_batches
from clipjax.errors import DataError, UsageError
from tests.data._images import MemoryOpener

MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
WIDE = Augmentation(flip=0.5)
RECIPE = PixelRecipe(9, 9, rgb="first")
DRAWS = 12_000


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def reference_pixels(image: PIL.Image.Image, box: Box, flip: bool, size: int, mode: str) -> np.ndarray:
    crop: Any = F.resized_crop(
        image,  # pyright: ignore[reportArgumentType]
        *box,
        size=[size, size],
        interpolation=MODES[mode],
        antialias=True,
    )
    return np.asarray(F.hflip(crop) if flip else crop)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_torchvisions_to_the_byte(mode, flip):
    rng = np.random.default_rng(1)
    for width, height, size in ((33, 47, 17), (101, 64, 32), (7, 5, 15), (224, 225, 224)):
        image = picture(width, height)
        for box in (sample_box(image.size, WIDE, rng), Box(0, 0, height, width), Box(1, 2, 3, 5)):
            found = crop_pixels(image, box, flip, size, mode)
            assert found.shape == (size, size, 3)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, reference_pixels(image, box, flip, size, mode))
    other = "bilinear" if mode == "bicubic" else "bicubic"
    assert np.any(crop_pixels(image, box, flip, size, mode) != crop_pixels(image, box, flip, size, other))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_an_image_becomes_rgb_before_all_else(mode):
    image = picture(40, 30, mode)
    found = augmented_pixels(image, WIDE, 16, image_generator(0, 0, "a", "pixels"))
    expected = augmented_pixels(image.convert("RGB"), WIDE, 16, image_generator(0, 0, "a", "pixels"))
    np.testing.assert_array_equal(found, expected)


def test_the_flip_has_its_probability_and_the_box_is_drawn_before_it():
    image = picture(8, 8)
    share = np.zeros(2)
    for i in range(400):
        found = augmented_pixels(
            image, Augmentation((1.0, 1.0), (1.0, 1.0), flip=0.25), 8, image_generator(0, i, "a", "pixels")
        )
        flipped = bool(np.any(found != np.asarray(image)))
        assert not flipped or np.all(found == np.asarray(image)[:, ::-1])
        share[int(flipped)] += 1
    assert 0.19 < share[1] / 400 < 0.31
    plain = augmented_pixels(image, Augmentation(), 8, image_generator(0, 3, "a", "pixels"))
    mirrored = augmented_pixels(image, Augmentation(flip=1.0), 8, image_generator(0, 3, "a", "pixels"))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


SIZES = {"wide": (500, 375), "tall": (180, 213)}
BOXES = {
    "default": Augmentation(),
    "mild": Augmentation((0.9, 1.0)),
    "long": Augmentation((0.2, 0.6), (0.4, 1.9)),
}


def ours(size: tuple[int, int], augmentation: Augmentation) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.array([sample_box(size, augmentation, rng) for _ in range(DRAWS)])


@functools.cache
def torchvisions(size: tuple[int, int], augmentation: Augmentation) -> np.ndarray:
    torch.manual_seed(6)
    image: Any = PIL.Image.new("L", size)
    scale, ratio = list(augmentation.scale), list(augmentation.ratio)
    return np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)])


def furthest(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> float:
    """The largest Kolmogorov-Smirnov distance over area, ratio and place of the boxes."""

    def facts(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, height, width = boxes.T.astype(float)
        room = np.maximum(1, size[1] - height), np.maximum(1, size[0] - width)
        return [height * width, np.log(width / height), top / room[0], left / room[1]]

    return max(float(ks_2samp(x, y).statistic) for x, y in zip(facts(a), facts(b)))  # pyright: ignore


# Two samples of one distribution are further apart than this once in 1,000 times.
LIMIT = 1.95 * math.sqrt(2 / DRAWS)


@pytest.mark.parametrize(("size", "kind"), [("wide", "default"), ("tall", "mild"), ("wide", "long")])
def test_boxes_are_distributed_as_torchvisions(size, kind):
    size, augmentation = SIZES[size], BOXES[kind]
    boxes = ours(size, augmentation)
    assert np.all(boxes >= 0)
    assert np.all(boxes[:, 0] + boxes[:, 2] <= size[1])
    assert np.all(boxes[:, 1] + boxes[:, 3] <= size[0])
    assert furthest(boxes, torchvisions(size, augmentation), size) < LIMIT


def linear_ratio(size, augmentation, rng):
    ratio = rng.uniform(*augmentation.ratio)
    area = size[0] * size[1] * rng.uniform(*augmentation.scale)
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if w > size[0] or h > size[1]:
        return linear_ratio(size, augmentation, rng)
    return Box(int(rng.integers(size[1] - h + 1)), int(rng.integers(size[0] - w + 1)), h, w)


def uniform_side(size, augmentation, rng):
    low, high = augmentation.scale
    return sample_box(
        size, dataclasses.replace(augmentation, scale=(rng.uniform(low, high) ** 2 + 1e-9,) * 2), rng
    )


def swapped_sides(size, augmentation, rng):
    top, left, height, width = sample_box(size[::-1], augmentation, rng)
    return Box(left, top, width, height) if rng.random() < 0.5 else Box(top, left, height, width)


def at_the_top(size, augmentation, rng):
    return sample_box(size, augmentation, rng)._replace(top=0)


@pytest.mark.parametrize(
    "wrong", mostly_long([linear_ratio, uniform_side, swapped_sides, at_the_top], keep=[uniform_side])
)
def test_another_distribution_would_be_seen(wrong: Callable[..., Box]):
    size, augmentation = SIZES["wide"], BOXES["default"]
    rng = np.random.default_rng(5)
    boxes = np.array([wrong(size, augmentation, rng) for _ in range(DRAWS)])
    assert furthest(boxes, torchvisions(size, augmentation), size) > 2 * LIMIT


@pytest.mark.parametrize("size", [(10, 201), (201, 10), (1, 9), (9, 1)])
def test_an_image_that_no_box_fits_gives_its_middle(size):
    augmentation = Augmentation((0.9, 1.0))
    image: Any = PIL.Image.new("L", size)
    expected = RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])
    box = sample_box(size, augmentation, np.random.default_rng(0))
    assert tuple(box) == tuple(expected)
    assert augmented_pixels(picture(*size), augmentation, 8, np.random.default_rng(0)).shape == (8, 8, 3)


def test_draws_are_of_seed_epoch_image_and_use_alone():
    def first(*key) -> float:
        return image_generator(*key).random()

    assert first(1, 2, "a", "pixels") == first(1, 2, "a", "pixels")
    others = [(0, 2, "a", "pixels"), (1, 3, "a", "pixels"), (1, 2, "b", "pixels"), (1, 2, "a", "caption")]
    assert len({first(*key) for key in [(1, 2, "a", "pixels"), (12, 0, "a", "pixels"), *others]}) == 6
    # Pinned: a run that goes on with another version of NumPy must see the same crops.
    assert sample_box((500, 375), WIDE, image_generator(1, 0, "cat/0.jpg", "pixels")) == Box(40, 11, 220, 258)


def noise_manifest(n: int) -> Manifest:
    """n images of different sizes and contents, with two captions each."""
    images = []
    for i in range(n):
        buffer = io.BytesIO()
        picture(20 + i % 5, 17 + i % 3, seed=i).save(buffer, "PNG")
        images.append(buffer.getvalue())
    names = tuple(f"{i}.png" for i in range(n))
    captions = {"caption": [[f"{i} a", f"{i} b", f"{i} c"] for i in range(n)]}
    labels = np.arange(n, dtype=np.int32) % 3
    return Manifest(names, MemoryOpener(tuple(images)), labels, captions, name="noise")


MANIFEST = noise_manifest(11)


def training(manifest: Manifest = MANIFEST, **options):
    return training_batches(
        manifest, RECIPE, batch_size=4, seed=7, augmentation=WIDE, captions="caption", **options
    )


def seen(iterator, steps: int) -> dict[tuple[int, int], tuple[bytes, str]]:
    """(time that the row is seen, row) -> pixels and caption."""
    found: dict[tuple[int, int], tuple[bytes, str]] = {}
    times = np.zeros(len(MANIFEST), int)
    for _ in range(steps):
        batch = next(iterator)
        for pixels, row, text in zip(batch["pixels"], batch["row"], batch["text"]):
            found[int(times[row]), int(row)] = pixels.tobytes(), text
            times[row] += 1
    iterator.close()
    return found


def expected(epoch: int, row: int) -> bytes:
    rng = image_generator(7, epoch, f"{row}.png", "pixels")
    return augmented_pixels(open_image(MANIFEST.open(row)), WIDE, 9, rng).tobytes()


def test_a_view_depends_on_seed_epoch_and_image():
    found = seen(training(threads=3), 11)
    assert sorted(found) == [(epoch, row) for epoch in range(4) for row in range(11)]
    assert all(pixels == expected(*place) for place, (pixels, _) in found.items())
    assert len({pixels for pixels, _ in found.values()}) == 44
    assert len({text for _, text in found.values()}) > 22


@dataclasses.dataclass(frozen=True)
class CountingOpener:
    opener: Opener
    opened: list[int]

    def open(self, i: int) -> bytes:
        self.opened.append(i)
        return self.opener.open(i)

    def where(self, i: int) -> str:
        return self.opener.where(i)

    def select(self, rows: Sequence[int]) -> Opener:
        return self.opener.select(rows)

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return self.opener.content_digests(progress)


@pytest.mark.parametrize(("room", "opened"), [(10**6, 11), (3000, 2 + 4 * 9), (0, 4 * 11)])
def test_few_images_are_decoded_once_as_far_as_they_fit(monkeypatch, room, opened):
    """Of 3,000 bytes the pixels take 2,673; two of the images, whose smallest takes 1,360, fit."""
    monkeypatch.setattr(training_batches_module, "_KEPT_BYTES", room)
    opener = CountingOpener(MANIFEST.opener, [])
    manifest = dataclasses.replace(MANIFEST, opener=opener)
    found = seen(training(manifest, threads=1, epochs=4), 11)
    assert len(found) == 44
    assert all(pixels == expected(*place) for place, (pixels, _) in found.items())
    assert len(opener.opened) == opened


def test_processes_see_the_views_that_one_process_sees():
    whole = seen(training(), 11)
    parts: dict = {}
    for index in range(2):
        part = training(process_index=index, process_count=2)
        for number in range(5):
            batch = next(part)
            for i in range(4):
                epoch = ((number * 4 + i) * 2 + index) // 11
                parts[epoch, int(batch["row"][i])] = batch["pixels"][i].tobytes(), batch["text"][i]
        part.close()
    assert len(parts) == 40
    assert all(whole[place] == value for place, value in parts.items())


def same(batches, others) -> None:
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch["row"], other["row"])
        np.testing.assert_array_equal(batch["pixels"], other["pixels"])
        assert batch["text"] == other["text"]


@pytest.mark.parametrize(("before", "workers"), mostly_long([(0, 0), (0, 2), (2, 2)], keep=[(0, 2)]))
def test_a_resumed_run_goes_on_with_the_same_batches_on_any_number_of_workers(
    tmp_path, before, workers, forked_workers
):
    iterator, plain = training(workers=before), training(threads=1)
    handler = ocp.Checkpointer(grain.checkpoint.CheckpointHandler())  # pyright: ignore
    same([next(iterator) for _ in range(4)], [next(plain) for _ in range(4)])
    handler.save(tmp_path / "state", args=grain.checkpoint.CheckpointSave(iterator))  # pyright: ignore
    following = [next(plain) for _ in range(5)]
    for fresh in (training(workers=workers), plain):  # one that has not begun, and one that is elsewhere
        resumed = handler.restore(tmp_path / "state", args=grain.checkpoint.CheckpointRestore(fresh))  # pyright: ignore
        same([next(resumed) for _ in range(5)], following)
        assert resumed.get_state() == {"batches": 9}
        resumed.close()
    iterator.close()


def test_a_pass_in_order_shows_the_view_of_its_epoch():
    with batches(MANIFEST, RECIPE, batch_size=4, augmentation=WIDE, seed=7, epoch=2) as source:
        found = list(source)
    rows = np.concatenate([batch["row"] for batch in found])
    assert rows.tolist() == [*range(11), -1]
    pixels = np.concatenate([batch["pixels"] for batch in found])
    assert [each.tobytes() for each in pixels[:11]] == [expected(2, row) for row in range(11)]
    with batches(MANIFEST, RECIPE, batch_size=4) as source:
        plain = next(source)["pixels"][1]
    np.testing.assert_array_equal(plain, to_pixels(open_image(MANIFEST.open(1)), RECIPE))


def test_wrong_calls_are_refused():
    with pytest.raises(UsageError, match="class tokens need labels"):
        training_batches(MANIFEST, RECIPE, batch_size=4, seed=0, class_tokens=np.zeros((3, 2, 4), np.int32))
    broken = dataclasses.replace(MANIFEST, opener=MemoryOpener((b"no image",) * 11))
    iterator = training_batches(broken, RECIPE, batch_size=4, seed=0, augmentation=WIDE)
    with pytest.raises(DataError, match=r"image \d+ in memory: not an image"):
        next(iterator)
    iterator.close()
