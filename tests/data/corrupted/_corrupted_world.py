"""Three images of two classes, with depth: what corruptions are tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from clipjax.data.corrupted import depth as depths

CLASSES = ("n01440764", "n01443537")
SIZE = (300, 280)  # width, height
FOG = "fog_3d"


def write_world(folder: Path) -> Path:
    """images/ and depth/ in a folder, inverse depth of 16 bits."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("n01440764/a.JPEG", "n01440764/b.png", "n01443537/c.JPEG")):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(SIZE)
        inverse = np.linspace(1500 + number, 40000, SIZE[0] * SIZE[1]).reshape(SIZE[::-1])
        image, depth = folder / "images" / name, depths.file_of(folder / "depth", name)
        for path in (image, depth):
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse.save(image)
        PIL.Image.fromarray(inverse.astype(np.uint16)).save(depth)
    return folder
