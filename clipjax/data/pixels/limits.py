"""Limits on an image's size, and on pixels decoded at one time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import PIL.Image

from clipjax.errors import DataError

MAX_PIXELS = 178_956_970
"""Pillow's own limit (it warns from half of that). Real images reach about 100 million pixels."""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest encoded image: four channels of 16 bits, not compressed."""


def check_bytes(size: int, name: str) -> None:
    """Raises DataError for a file larger than any image of `MAX_PIXELS`."""
    if size > MAX_BYTES:
        raise DataError(
            f"{name}: {size:,} bytes, more than any image of {MAX_PIXELS:,} pixels takes; make it smaller or "
            "remove it"
        )


class InFlight:
    """A limit of `most` decoded pixels at one time in the process; a larger image waits until it is alone."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Callable[[PIL.Image.Image], None]]:
        """Yields a function that waits until an opened image's pixels fit; call it once, before decoding.

        They count until the block ends.
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
"""Shared by everything that reads images: about 1.4 GB at four bytes a pixel, in a few copies."""
