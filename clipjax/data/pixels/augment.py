"""Random resized crop and flip on the host, seeded per image and epoch.

Source: torchvision 0.29, `transforms.RandomResizedCrop.get_params`, `functional.resized_crop` and `hflip` on
PIL images. Pixels are byte-equal for the same box and flip; NumPy draws boxes from the same distribution.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import PIL.Image

from clipjax.data.pixels.preprocess import RESAMPLING, to_rgb

# Draws of a box before the central one is taken.
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """A random view of a training image.

    Attributes:
        scale: smallest and largest share of the image's area in a crop.
        ratio: smallest and largest width / height of a crop.
        flip: probability of a horizontal flip.
    """

    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, values in (("scale", self.scale), ("ratio", self.ratio)):
            if len(values) != 2 or not 0 < values[0] <= values[1]:
                raise ValueError(f"augmentation.{name} is {list(values)}, should be two numbers, 0 < a <= b")
        if self.scale[1] > 1 or not 0 <= self.flip <= 1:
            raise ValueError("augmentation.scale and flip are at most 1")


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def image_generator(seed: int, epoch: int, image_id: str, use: str) -> np.random.Generator:
    """One image's generator in an epoch; `use` ("pixels" or "caption") keeps their draws independent."""
    digest = hashlib.sha256(f"{seed}\n{epoch}\n{use}\n{image_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample_box(size: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator) -> Box:
    """Uniform in area, log-uniform in width / height; `size` is (width, height).

    If none of ten draws fits: the largest central box within the ratios.
    """
    width, height = size
    smallest, largest = augmentation.scale
    low, high = (math.log(ratio) for ratio in augmentation.ratio)
    for _ in range(_TRIES):
        area = width * height * rng.uniform(smallest, largest)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(top), int(left), h, w)
    return _central_box(width, height, *augmentation.ratio)


def _central_box(width: int, height: int, narrowest: float, widest: float) -> Box:
    w, h = width, height
    if width / height < narrowest:
        h = round(width / narrowest)
    elif width / height > widest:
        w = round(height * widest)
    return Box((height - h) // 2, (width - w) // 2, h, w)


def augmented_pixels(
    image: PIL.Image.Image, augmentation: Augmentation, size: int, rng: np.random.Generator
) -> np.ndarray:
    """One random view, uint8 [S, S, 3] with S = `size`; RGB comes first, as in torchvision's folder loader.

    Raises:
        DataError: no RGB form.
    """
    image = to_rgb(image)
    box = sample_box(image.size, augmentation, rng)
    flip = rng.random() < augmentation.flip
    return crop_pixels(image, box, flip, size, augmentation.interpolation)


def crop_pixels(image: PIL.Image.Image, box: Box, flip: bool, size: int, interpolation: str) -> np.ndarray:
    """A box of an RGB image, resized with antialiasing, then mirrored if `flip`: uint8 [S, S, 3]."""
    crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    pixels = np.asarray(crop.resize((size, size), RESAMPLING[interpolation]))
    return pixels[:, ::-1] if flip else pixels
