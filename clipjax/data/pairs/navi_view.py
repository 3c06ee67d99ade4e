"""One image of NAVI as probe3d prepares it: the picture, its points, and the focal length.

Three steps choose pixels without mixing them, and each has its own rule: PIL takes pixel centres, torch
floor(i * in / out) in float32, OpenCV floor(i / (out / in)) in float64.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
from etils import epath

from clipjax.data.pairs.depth import unproject
from clipjax.data.pairs.poses import LARGEST, motion_of
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.errors import DataError
from clipjax.storage.reading import read_bytes

PREPARED = "downsampled_"
SHORT = 1024  # the short side of a prepared image
DISPARITY = 655350  # depth in millimetres = DISPARITY / number in the depth picture
_QUALITY = 75  # the JPEGs of prepared images: Pillow's default


class PreparedView(NamedTuple):
    """`pixels` uint8 [S, S, 3], `points` float32 [S, S, 3] in metres, `focal` in pixels of `pixels`."""

    pixels: np.ndarray
    points: np.ndarray
    focal: float


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """An image's camera.

    Attributes:
        pose: object to camera, float64 [4, 4], in metres.
        focal: in pixels of the raw image.
        size: height and width of the raw image, upright.
    """

    pose: np.ndarray
    focal: float
    size: tuple[int, int]

    def open(self, encoded: bytes, name: str, prepared: bool) -> PIL.Image.Image:
        """The prepared image; a raw one is made upright, resized and saved as a JPEG in memory."""
        image = to_rgb(_upright(open_image(encoded, name), name))
        expected = _prepared_size(self.size) if prepared else self.size[::-1]
        if image.size != expected:
            sizes = [f"{width} x {height}" for width, height in (image.size, expected)]
            raise DataError(f"{name} has {sizes[0]} pixels; annotations.json says {sizes[1]}")
        if prepared:
            return image
        file = io.BytesIO()
        small = image.resize(_prepared_size(self.size), PIL.Image.Resampling.BILINEAR)
        small.save(file, "JPEG", quality=_QUALITY)
        return open_image(file.getvalue(), name)

    def prepare(
        self, image: PIL.Image.Image, disparity: np.ndarray, side: int, crop: bool, prepared: bool, where: str
    ) -> PreparedView:
        """Resize the short side to `side`, cut the middle square, and with `crop` the object's box.

        Args:
            image: as from `open`.
            disparity: int32 [H, W], of the raw or the prepared image.

        Raises:
            DataError: another size; no depth; a box without pixels.
        """
        small = _prepared_size(self.size)
        expected = small if prepared else self.size[::-1]
        if disparity.shape[::-1] != expected:
            sizes = [f"{width} x {height}" for width, height in (disparity.shape[::-1], expected)]
            raise DataError(f"{where} has {sizes[0]} pixels, and its image {sizes[1]}")
        if not prepared:
            picture = PIL.Image.fromarray(disparity).resize(small, PIL.Image.Resampling.NEAREST)
            disparity = np.asarray(picture)
        rows, columns = (_middle(length, min(small), side) for length in small[::-1])
        depth = _metres(disparity[np.ix_(rows, columns)])
        if not depth.any():
            raise DataError(f"{where}: all depths are 0")
        focal = self.focal * side / min(self.size)
        points = unproject(depth, np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]]))
        pixels = np.asarray(image)[np.ix_(rows, columns)]
        if not crop:
            return PreparedView(pixels, points, focal)
        top, left, length = _box(depth, where)
        rows, columns = (start + _opencv_nearest(length, side) for start in (top, left))
        return PreparedView(
            pixels[np.ix_(rows, columns)], points[np.ix_(rows, columns)], focal * side / length
        )


def view_of(record: Mapping[str, Any]) -> View:
    """The view that an object of annotations.json describes.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: without camera or size, or with impossible ones.
    """
    camera, size = record["camera"], record["image_size"]
    height, width = size
    focal, translation = float(camera["focal_length"]), [float(each) / 1000 for each in camera["t"]]
    whole = type(height) is int and type(width) is int
    if not (whole and min(size) >= 1 and 0 < focal < LARGEST):
        raise ValueError(f"its image_size {size} or focal_length {focal:g} is impossible")
    if len(camera["q"]) != 4 or len(translation) != 3:
        raise ValueError("its camera needs q of 4 numbers and t of 3")
    return View(motion_of([float(each) for each in camera["q"]], translation), focal, (height, width))


def mask_problem(path: epath.Path, view: View, where: str) -> list[str]:
    """A sentence if the mask cannot be read or has another size; no number depends on the mask."""
    try:
        width, height = _upright(open_image(read_bytes(path), str(path)), str(path)).size
    except DataError as error:
        return [f"{where}: {error}"]
    if (height, width) == view.size:
        return []
    expected = f"{view.size[1]} x {view.size[0]}"
    return [f"{where}: the mask {path} has {width} x {height} pixels, and its image {expected}"]


def _upright(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises nearly anything on damaged metadata
        raise DataError(f"{name}: its EXIF data are damaged ({error}); save it again without them") from None


def _prepared_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a raw image -> (width, height) of the prepared one."""
    factor = SHORT / min(size)
    return int(size[1] * factor), int(size[0] * factor)


def _middle(length: int, short: int, side: int) -> np.ndarray:
    """The pixels of a side, `length` long, that the middle square takes once the short side is `side`."""
    resized = side if length == short else int(side * length / short)
    start = round((resized - side) / 2)
    return _torch_nearest(length, resized)[start : start + side]


def _torch_nearest(length: int, resized: int) -> np.ndarray:
    scale = np.float32(length) / np.float32(resized)
    source = np.floor(np.arange(resized, dtype=np.float32) * scale).astype(int)
    return np.minimum(source, length - 1)


def _opencv_nearest(length: int, resized: int) -> np.ndarray:
    source = np.floor(np.arange(resized) * (1 / (resized / length))).astype(int)
    return np.minimum(source, length - 1)


def _metres(disparity: np.ndarray) -> np.ndarray:
    """0 where the depth is missing."""
    return np.divide(DISPARITY / 1000, disparity, out=np.zeros(disparity.shape), where=disparity > 0)


def _box(depth: np.ndarray, where: str) -> tuple[int, int, int]:
    """Top, left and side of the square around the pixels with a depth.

    As in the reference its side is the difference of the last and the first index, so that the last row and
    column are left out.
    """
    first, last = (edge(np.argwhere(depth > 0), axis=0) for edge in (np.min, np.max))
    extent = last - first
    side = int(extent.max())
    if side == 0:
        raise DataError(f"{where}: one pixel alone has a depth")
    pad = side - extent
    start = first - pad // 2
    if (start < 0).any() or (start + side > depth.shape).any():
        start = np.maximum(first - pad, 0)
    return int(start[0]), int(start[1]), side
