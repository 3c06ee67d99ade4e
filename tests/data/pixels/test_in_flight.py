"""The pixels that threads have decoded at one time are bounded, whatever the number of threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clipjax.data.manifest import FileOpener, Manifest
from clipjax.data.pixels import limits, loader
from clipjax.data.pixels.limits import InFlight
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe


def _image(side: int) -> PIL.Image.Image:
    return PIL.Image.new("L", (side, side))


class _Counted:
    """How many are inside at one time, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def add(self, pixels: int) -> None:
        with self._lock:
            self.now += pixels
            self.most = max(self.most, self.now)


def test_threads_wait_for_each_others_pixels() -> None:
    budget, counted = InFlight(1000), _Counted()

    def decode(side: int) -> None:
        with budget.waiting() as before:
            before(_image(side))
            counted.add(side * side)
            time.sleep(0.001)
            counted.add(-side * side)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [5, 10, 20, 25, 30] * 20))
    assert 900 <= counted.most <= 1000


def test_an_image_beyond_the_bound_is_decoded_alone() -> None:
    budget = InFlight(10)
    with budget.waiting() as before:
        before(_image(20))
    with budget.waiting() as before:  # and gives its pixels back
        before(_image(3))


def test_pixels_are_given_back_where_decoding_fails() -> None:
    budget = InFlight(10)

    def decode() -> None:
        with budget.waiting() as before:
            before(_image(3))
            raise ValueError("damaged")

    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"):
            decode()


def test_the_loader_keeps_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"{i}.png" for i in range(24))
    for name in names:
        _image(64).save(tmp_path / name)
    counted, bound = _Counted(), 3 * 64 * 64
    to_pixels = loader.to_pixels

    def slow(image: PIL.Image.Image, *args: object) -> np.ndarray:
        counted.add(image.width * image.height)
        time.sleep(0.002)
        counted.add(-image.width * image.height)
        return to_pixels(image, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "to_pixels", slow)
    monkeypatch.setattr(loader, "DECODED", InFlight(bound))
    manifest = Manifest(names, FileOpener(str(tmp_path), names))
    with batches(manifest, PixelRecipe(8, 8), batch_size=8, threads=16) as source:
        rows = [row for batch in source for row in batch["row"].tolist()]
    assert rows == list(range(24))
    assert 64 * 64 < counted.most <= bound


def test_the_bound_of_a_process_is_two_of_the_largest_images() -> None:
    assert limits.DECODED.most == 2 * limits.MAX_PIXELS
