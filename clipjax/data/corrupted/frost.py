"""The pictures that `frost` lays over an image, from a folder that the user names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipjax.data.manifest import IMAGE_EXTENSIONS
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.data.readers.walk import Walk
from clipjax.errors import DataError


def frost_pictures(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [F, H, W, 3], int32 [F, 2]): a folder's pictures by name, padded with zeros, and their sizes.

    Args:
        size: the side of the images to corrupt; both sides of a picture are longer.

    Raises:
        DataError: no picture in it, or one that is too small or unreadable.
    """
    names = sorted(Walk(folder).files(IMAGE_EXTENSIONS))
    if not names:
        raise DataError(f"{folder}: no picture of frost (.png, .jpg, ...) in this folder")
    pictures = [_picture(folder / name, size) for name in names]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    padded = np.zeros((len(pictures), *sizes.max(0), 3), np.uint8)
    for row, picture in zip(padded, pictures):
        row[: picture.shape[0], : picture.shape[1]] = picture
    return padded, sizes


def _picture(file: Path, size: int) -> np.ndarray:
    pixels = np.asarray(to_rgb(open_image(file)))
    if min(pixels.shape[:2]) <= size:
        raise DataError(
            f"{file}: {pixels.shape[1]} x {pixels.shape[0]} pixels; a picture of frost must be larger than "
            f"the images of {size} pixels on both sides"
        )
    return pixels
