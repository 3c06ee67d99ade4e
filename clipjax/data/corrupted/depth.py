"""Depth and reshading of images, from PNG files beside them.

The file of the image `class/name.jpg` is `class/name.png` in the folder of depths (or reshadings). Its size
is the image's own: both are resized and cropped alike.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image

from clipjax.data.pixels.depth_png import depth_values
from clipjax.data.pixels.preprocess import PixelRecipe, center_crop, open_image, resized_size, to_pixels
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.storage.reading import exists

DepthKind = Literal["inverse", "metric"]

# As the reference prepares ImageNet: the short side to 256, bilinear, and the middle 224 x 224.
PREPARATION = PixelRecipe(224, 256, interpolation="bilinear", rgb="first")

_BILINEAR = PIL.Image.Resampling.BILINEAR
_INVERSE_UNIT, _FARTHEST = 512, 0.5  # D = 1 / (v / 512 + 1e-6), at most 1/2
_METRIC_UNIT, _METRIC_END = 8000, 1.0  # D = v / 8000, measured where it is below 1


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of depth. Raises UsageError."""
    known_name("kind of depth", kind, get_args(DepthKind))


def prepared_depth(
    path: Path, image_id: str, size: tuple[int, int], kind: str, data: bytes | None = None
) -> np.ndarray:
    """A depth file as the corruptions take it.

    Args:
        data: the bytes of the file, if they were read already.
        size: (width, height) of the image.
        kind: "inverse": D = min(1 / (v / 512 + 1e-6), 1/2) of the resized 16-bit v, as the reference reads
            ImageNet's. "metric": D = v / 8000, as it reads Taskonomy's. Where nothing was measured (v = 0, or
            D of 1 or more), D becomes the largest one below 1, before the resize.

    Returns: float32 [224, 224], above 0.

    Raises:
        DataError: naming the file: missing, not a 16-bit PNG of one channel, of another size, zero
            everywhere, or without a measurement.
    """
    values = depth_values(_open(path, image_id, "depth", size, data), str(path))
    if not values.any():
        raise DataError(f"{path}: the depth of {image_id} is zero everywhere; replace it")
    if kind == "inverse":
        inverse = np.asarray(_prepared(PIL.Image.fromarray(values)))
        return np.minimum(1 / (inverse / _INVERSE_UNIT + 1e-6), _FARTHEST).astype(np.float32)
    metric = values / np.float32(_METRIC_UNIT)
    measured = (metric > 0) & (metric < _METRIC_END)
    if not measured.any():
        raise DataError(
            f"{path}: no value of the depth of {image_id} is between 1 and {_METRIC_UNIT - 1}, a metric "
            f"depth in 1/{_METRIC_UNIT}; is it an inverse depth?"
        )
    metric = np.where(measured, metric, metric[measured].max()).astype(np.float32)
    return np.array(_prepared(PIL.Image.fromarray(metric)))


def prepared_reshading(
    path: Path, image_id: str, size: tuple[int, int], data: bytes | None = None
) -> np.ndarray:
    """float32 [224, 224] in [0, 1]: the first channel of a reshading file. Raises DataError as for depth."""
    pixels = to_pixels(_open(path, image_id, "reshading", size, data), PREPARATION)
    return (pixels[..., 0] / 255).astype(np.float32)


def shading_of_depth(depth: np.ndarray) -> np.ndarray:
    """A substitute for a reshading: N . L from the normals of a depth, with the light at the camera.

    The focal length is the image's side, as in the reference's renderer. float32 [S, S] -> float32 [S, S].
    """
    side = len(depth)
    at = (np.arange(side) - (side - 1) / 2) / side
    # A pixel at (x, y), as shares of the side, is the point depth * (x, y, 1). The normal is perpendicular to
    # the differences to its neighbours across and down.
    points = depth[..., None] * np.stack([*np.meshgrid(at, at), np.ones_like(depth)], -1)
    normals = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    lengths = np.linalg.norm(normals, axis=-1) * np.linalg.norm(points, axis=-1)
    return (np.abs((normals * points).sum(-1)) / np.maximum(lengths, 1e-12)).astype(np.float32)


def file_of(folder: Path, image_id: str) -> Path:
    """The depth file of an image: `folder`/class/name.png for class/name.jpg."""
    return folder / PurePosixPath(image_id).with_suffix(".png")


def _open(path: Path, image_id: str, what: str, size: tuple[int, int], data: bytes | None) -> PIL.Image.Image:
    if data is None and not exists(path):
        raise DataError(f"{path}: the {what} of {image_id} does not exist")
    image = open_image(path) if data is None else open_image(data, str(path))
    if image.size != size:
        raise DataError(
            f"{path}: the {what} has {image.width} x {image.height} pixels, and its image {image_id} has "
            f"{size[0]} x {size[1]}; both must be of one size"
        )
    return image


def _prepared(image: PIL.Image.Image) -> Any:
    resized = image.resize(resized_size(image.size, PREPARATION), _BILINEAR)
    return center_crop(resized, PREPARATION.image_size, PREPARATION.crop)
