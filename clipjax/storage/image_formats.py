"""Formats of image files: the common ones alone, since Pillow starts Ghostscript for an EPS of any name."""

from __future__ import annotations

import io

import PIL.Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def image_header(data: bytes) -> PIL.Image.Image:
    """An image with its header read; pixels are decoded when they are used.

    Raises PIL.UnidentifiedImageError if it is not one of `FORMATS`, and nearly anything for a damaged file.
    """
    return PIL.Image.open(io.BytesIO(data), formats=FORMATS)
