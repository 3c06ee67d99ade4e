"""How large an image may be: beyond that it is refused before it takes memory."""

from __future__ import annotations

from clipjax.errors import DataError

MAX_PIXELS = 178_956_970
"""Where Pillow itself draws the line (it warns from half of that on). Real ones reach about 100 million."""

MAX_BYTES = 8 * MAX_PIXELS
"""Of an encoded image: four channels of 16 bits, not compressed."""


def check_bytes(size: int, name: str) -> None:
    """Raises DataError naming the image whose file has too many bytes for any image within `MAX_PIXELS`."""
    if size > MAX_BYTES:
        raise DataError(
            f"{name}: {size:,} bytes, more than any image of {MAX_PIXELS:,} pixels takes; make it smaller or "
            "remove it"
        )
