"""How large an image may be: beyond that it is refused before it takes memory; and how many at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import PIL.Image

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


class InFlight:
    """Pixels that the threads of a process have decoded at one time, at most `most` of them.

    An image of more waits until it is the only one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Callable[[PIL.Image.Image], None]]:
        """A function that waits until an image, whose header is read, may be decoded.

        Its pixels count until the block ends; one block is for one image.
        """
        held = 0

        def wait(image: PIL.Image.Image) -> None:
            nonlocal held
            pixels = image.width * image.height
            with self._changed:
                self._changed.wait_for(lambda: not self._held or self._held + pixels <= self.most)
                self._held += pixels
            held = pixels

        try:
            yield wait
        finally:
            with self._changed:
                self._held -= held
                self._changed.notify_all()


DECODED = InFlight(2 * MAX_PIXELS)
"""Of this process, whatever reads images: about 1.4 GB at four bytes a pixel, in a few copies."""
