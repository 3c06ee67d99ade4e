"""Pixels equal to the reference, on the host: resize, centre crop, RGB. Cards name recipes, so no JAX here.

Byte-equal to open_clip's `image_transform` (open_clip 3.3, open_clip/transform.py) and timm's
`transforms_imagenet_eval` (timm 1.0, timm/data/transforms_factory.py) on PIL images, and to transformers'
`CLIPImageProcessorPil` (5.24) on RGB images. transformers' tensor backend differs by 1/255; both its
processors put transparent images on white. The EXIF orientation is not applied.

"letterbox" is Prismatic's (TRI-ML/prismatic-vlms at 874c5bb, models/backbones/vision/base_vision.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import PIL.Image

from clipjax.data.pixels.limits import MAX_PIXELS, check_bytes
from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.storage.image_formats import image_header

ResizeMode = Literal["shortest", "longest", "squash", "letterbox"]
Interpolation = Literal["bicubic", "bilinear"]
RgbOrder = Literal["first", "last"]
Crop = Literal["round", "floor"]
Decode = Literal["full", "jpeg_scaled"]

# A JPEG decoded smaller stays this many times larger than its resized size: the resize then averages what
# libjpeg leaves, as Pillow's own `thumbnail` does (its `reducing_gap`).
SCALED_GAP = 2

PIXELS_VERSION = 1  # raise it if `to_pixels` changes any byte; it is in the keys of stored pixels

RESAMPLING = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class PixelRecipe:
    """Everything that changes a byte of an image's uint8 pixels, and nothing else.

    Attributes:
        image_size: S, side of the model's square input, in pixels.
        resize_size: side before the crop (timm: floor(image_size / crop_pct)).
        resize_mode: the side that becomes resize_size: "shortest", "longest" (then padded) or "squash"
            (both). "letterbox": the short side, after the image was padded to a square (see `letterboxed`).
        interpolation: antialiased; but PIL resizes palette and 1-bit images with nearest.
        rgb: the image becomes RGB "first" (torchvision's folder loader) or "last", after the crop (open_clip;
            timm takes RGB only).
        pre_crop: pixels cut from each side of the original (2 for ObjectNet's border).
        crop: start of the centre crop for an odd margin: "round" (half, to even: torchvision) or "floor"
            (transformers).
        decode: "full", or "jpeg_scaled", which equals no reference: see `open_scaled`.
        fill: the colour of "letterbox", 0 to 255 per channel; else None.

    Raises:
        UsageError: a size that is not positive, an unknown name, or "letterbox" without a colour or with rgb
            "last".
    """

    image_size: int
    resize_size: int
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    rgb: RgbOrder = "last"
    pre_crop: int = 0
    crop: Crop = "round"
    decode: Decode = "full"
    fill: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("resize mode", self.resize_mode, get_args(ResizeMode)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
            ("rgb order", self.rgb, get_args(RgbOrder)),
            ("crop", self.crop, get_args(Crop)),
            ("way to decode", self.decode, get_args(Decode)),
        ):
            known_name(kind, name, known)
        if self.image_size < 1 or self.resize_size < 1 or self.pre_crop < 0:
            raise UsageError(f"a pixel recipe needs positive sizes and a pre_crop of at least 0, not {self}")
        if (self.resize_mode == "letterbox") != (self.fill is not None):
            raise UsageError(
                f"a colour to fill with belongs to the resize mode letterbox alone, not to {self}"
            )
        if self.fill is not None and self.rgb != "first":
            raise UsageError("the resize mode letterbox pads RGB images: it needs rgb 'first'")

    def key(self) -> dict[str, Any]:
        """The transform as JSON. Usual values are left out: keys from before these fields must stay equal."""
        key = dataclasses.asdict(self)
        for name, usual in (("crop", "round"), ("decode", "full"), ("fill", None)):
            if key[name] == usual:
                del key[name]
        return key


class Scale(NamedTuple):
    """An image decoded smaller: `full` (width, height), and the factor."""

    full: tuple[int, int]
    shrink: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The full image's extent in pixels of the small one.

        An eighth of 1,001 pixels is 126, the last nearly empty.
        """
        return 0, 0, self.full[0] / self.shrink, self.full[1] / self.shrink


def open_scaled(
    source: bytes,
    name: str,
    recipe: PixelRecipe,
    *,
    before: Callable[[PIL.Image.Image], object] | None = None,
) -> tuple[PIL.Image.Image, Scale | None]:
    """`open_image` for "jpeg_scaled"; also returns the `scale` for `to_pixels`.

    Takes the smallest of an eighth, a quarter and a half that stays SCALED_GAP times larger than the resized
    size. Other formats, and images with a border to cut or to add, are decoded in full. Pixel values change;
    positions do not.
    """
    scales: list[Scale] = []

    def shrink(image: PIL.Image.Image) -> int:
        if image.format not in ("JPEG", "MPO") or recipe.pre_crop or recipe.fill is not None:
            return 1
        wanted = [SCALED_GAP * side for side in _scaled_sides(image.size, recipe)]
        fits = (s for s in (8, 4, 2) if all(side >= s * least for side, least in zip(image.size, wanted)))
        if (factor := next(fits, 1)) > 1:
            scales.append(Scale(image.size, factor))
        return factor

    image = open_image(source, name, shrink=shrink, before=before)
    return image, scales[0] if scales else None


def open_image(
    source: bytes | str | Path,
    name: str | None = None,
    *,
    shrink: int | Callable[[PIL.Image.Image], int] = 1,
    before: Callable[[PIL.Image.Image], object] | None = None,
) -> PIL.Image.Image:
    """Decode one image completely, so that damage shows here and not inside a batch.

    Args:
        name: for errors; default the path.
        shrink: decode a JPEG at 1/shrink of its size; a function gets the image with its header read.
        before: called with that image.

    Raises:
        DataError: missing, damaged, not an image; more than `MAX_PIXELS` (half of that where Pillow's
            warnings are errors); texts that unpack to more than Pillow allows.
    """
    name = name or (f"an image of {len(source)} bytes" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else _read(Path(source), name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); replace or remove it") from None
    try:
        image = image_header(data)
        if image.width * image.height > MAX_PIXELS:  # holds even where Pillow's own limit was lifted
            raise _too_large(name, f"{image.width:,} x {image.height:,}", f"{MAX_PIXELS:,}")
        if before is not None:
            before(image)
        times = shrink(image) if callable(shrink) else shrink
        if times > 1:
            image.draft(None, (max(1, image.width // times), max(1, image.height // times)))
        image.load()
    except DataError:
        raise
    except PIL.UnidentifiedImageError:
        size = len(data)
        raise DataError(
            f"{name}: not an image in JPEG, PNG, PPM, BMP, TIFF, WebP or GIF ({size} bytes); "
            "replace or remove it"
        ) from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        pixels, limit = (f"{int(number):,}" for number in re.findall(r"\d+", str(error))[:2])
        raise _too_large(name, pixels, limit) from None
    except Exception as error:  # PIL's decoders raise nearly anything on damaged input: struct.error...
        if "MAX_TEXT_" in str(error):
            raise DataError(
                f"{name}: a text or colour profile in it unpacks to megabytes ({error}); save it again "
                "without metadata, or remove it"
            ) from None
        raise DataError(f"{name}: damaged or unreadable image ({error}); replace or remove it") from error
    return image


def _read(path: Path, name: str) -> bytes:
    check_bytes(path.stat().st_size, name)
    return path.read_bytes()


def _too_large(name: str, pixels: str, limit: str) -> DataError:
    return DataError(f"{name}: {pixels} pixels, and {limit} is the limit; make it smaller or remove it")


def to_pixels(image: PIL.Image.Image, recipe: PixelRecipe, scale: Scale | None = None) -> np.ndarray:
    """Resize, crop and convert an image of any mode, as the reference does before its ToTensor.

    Returns: uint8 [S, S, 3] with S = recipe.image_size (read-only).

    Raises:
        DataError: no larger than the border to cut; too thin (see `resized_size`); no RGB form.
    """
    if recipe.rgb == "first":
        image = to_rgb(image)
    if recipe.pre_crop:
        image = cut_border(image, recipe.pre_crop)
    if recipe.fill is not None:
        image = letterboxed(image, recipe.fill)
    size = resized_size(image.size if scale is None else scale.full, recipe)
    if size != image.size:
        image = image.resize(size, RESAMPLING[recipe.interpolation], scale and scale.box)
    return np.asarray(to_rgb(center_crop(image, recipe.image_size, recipe.crop)))


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Raises DataError if the image's mode has no RGB form."""
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise DataError(f"an image of mode {image.mode} has no RGB form: {error}") from None


def cut_border(image: PIL.Image.Image, border: int) -> PIL.Image.Image:
    """The image without `border` pixels of each side. Raises DataError if nothing would be left."""
    width, height = image.size
    if min(width, height) <= 2 * border:
        raise DataError(
            f"an image of {width} x {height} pixels has no inside once {border} pixels per side are cut"
        )
    return image.crop((border, border, width - border, height - border))


def letterboxed(image: PIL.Image.Image, fill: tuple[int, int, int]) -> PIL.Image.Image:
    """An RGB image padded to a square with the colour `fill`, equally on both sides.

    Where the padding is odd, its last pixel is left out, as in Prismatic: 451 x 300 pixels become 451 x 450.

    Raises DataError if that would be above `MAX_PIXELS`.
    """
    width, height = image.size
    side = max(width, height)
    across, down = (side - width) // 2, (side - height) // 2
    if side * side > MAX_PIXELS:
        raise DataError(
            f"an image of {width} x {height} pixels is so thin that a square around it has {side * side:,} "
            f"pixels, and {MAX_PIXELS:,} is the limit"
        )
    square = PIL.Image.new("RGB", (width + 2 * across, height + 2 * down), fill)
    square.paste(image, (across, down))
    return square


def resized_size(size: tuple[int, int], recipe: PixelRecipe) -> tuple[int, int]:
    """(width, height) before the crop. Raises DataError if a side vanishes, or above `MAX_PIXELS`."""
    width, height = _scaled_sides(size, recipe)
    if min(width, height) < 1:
        raise DataError(f"an image of {size[0]} x {size[1]} pixels vanishes when resized to {width, height}")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"an image of {size[0]} x {size[1]} pixels is so thin that {width:,} x {height:,} become of it "
            f"when its short side is resized to {min(width, height)}, and {MAX_PIXELS:,} pixels is the limit"
        )
    return width, height


def _scaled_sides(size: tuple[int, int], recipe: PixelRecipe) -> tuple[int, int]:
    """ "shortest" truncates, "longest" rounds, as the references do."""
    width, height = size
    target = recipe.resize_size
    if recipe.resize_mode == "squash":
        return target, target
    if recipe.resize_mode == "longest":
        ratio = max(width / target, height / target)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def center_crop(image: PIL.Image.Image, size: int, crop: Crop) -> PIL.Image.Image:
    """Beyond the edge PIL fills with zero in the image's *own* mode, as the reference: white in CMYK."""
    width, height = image.size
    left, top = _offset(width, size, crop), _offset(height, size, crop)
    return image.crop((left, top, left + size, top + size))


def _offset(length: int, size: int, crop: Crop) -> int:
    """The crop's first pixel. Padding's odd pixel goes to the far side; with "floor" to the near one.

    _offset(5, 8, "round")    # -1: one zero before the image, two after it
    _offset(5, 8, "floor")    # -2: two before, one after
    """
    if crop == "floor":
        return (length - size) // 2
    return -((size - length) // 2) if length < size else round((length - size) / 2)
