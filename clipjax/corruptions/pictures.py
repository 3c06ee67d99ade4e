"""The pictures that `frost` lays over an image, from a folder that the user names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.errors import DataError

_KINDS = (".png", ".jpg", ".jpeg")


def frost_pictures(folder: str | Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [F, H, W, 3], int32 [F, 2]): a folder's pictures by name, padded with zeros, and their sizes.

    Args:
        size: the side of the images to corrupt; both sides of a picture are longer.

    Raises:
        DataError: no picture in it, or one that is too small or unreadable.
    """
    files = sorted(file for file in Path(folder).glob("*") if file.suffix.lower() in _KINDS)
    if not files:
        raise DataError(f"{folder}: no picture of frost (.png, .jpg) in this folder")
    pictures = [_picture(file, size) for file in files]
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    padded = np.zeros((len(pictures), *sizes.max(0), 3), np.uint8)
    for row, picture in zip(padded, pictures):
        row[: picture.shape[0], : picture.shape[1]] = picture
    return padded, sizes


def _picture(file: Path, size: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable picture of frost ({error})") from None
    if min(pixels.shape[:2]) <= size:
        raise DataError(
            f"{file}: {pixels.shape[1]} x {pixels.shape[0]} pixels; a picture of frost must be larger than "
            f"the images of {size} pixels on both sides"
        )
    return pixels
