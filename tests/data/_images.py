"""Tiny images whose colour says which row they are, in memory or on disk."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clipjax.data.manifest import Manifest, Progress
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.storage.digests import sha256_bytes

SIDE = 4
RECIPE = PixelRecipe(SIDE, SIDE, rgb="first")


def png(row: int) -> bytes:
    """A PNG of one colour; `row_of` its pixels is `row`."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (row % 256, row // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def row_of(pixels):
    """[B,S,S,3] -> the rows int [B] that `png` painted."""
    return pixels[:, 0, 0, 0].astype("int32") + 256 * pixels[:, 0, 0, 1].astype("int32")


def write_images(root: Path, names: Sequence[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root


@dataclasses.dataclass(frozen=True)
class MemoryOpener:
    images: tuple[bytes, ...]

    def open(self, i: int) -> bytes:
        return self.images[i]

    def where(self, i: int) -> str:
        return f"image {i} in memory"

    def select(self, rows: Sequence[int]) -> MemoryOpener:
        return MemoryOpener(tuple(self.images[i] for i in rows))

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return [sha256_bytes(image) for image in self.images]


def memory_manifest(n: int, broken: Sequence[int] = (), captions: list | None = None) -> Manifest:
    """n images with labels row % 10; those in `broken` are cut off in the middle."""
    images = tuple(png(i)[: 40 if i in broken else None] for i in range(n))
    return Manifest(
        tuple(f"{i}.png" for i in range(n)),
        MemoryOpener(images),
        labels=np.arange(n, dtype=np.int32) % 10,
        columns={} if captions is None else {"caption": captions},
        name="memory",
    )
