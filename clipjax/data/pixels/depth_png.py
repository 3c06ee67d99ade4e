"""The numbers of a depth picture: a PNG of one channel of 16 bits."""

from __future__ import annotations

import numpy as np
import PIL.Image

from clipjax.errors import DataError

MOST = 0xFFFF


def depth_values(image: PIL.Image.Image, name: str) -> np.ndarray:
    """int32 [H, W], 0 to 65,535. Raises DataError for another kind of picture, naming it."""
    if not image.mode.startswith("I"):  # "I;16", or "I" in older versions of Pillow
        raise DataError(f"{name}: expected one channel of 16 bits, found mode {image.mode}")
    values = np.asarray(image).astype(np.int32)
    if values.min() < -MOST // 2 or values.max() > MOST:
        raise DataError(f"{name}: expected numbers of 16 bits, found {values.min()} to {values.max()}")
    return values & MOST  # a version of Pillow that reads them as signed gives -1 for 65,535
