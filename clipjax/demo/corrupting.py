"""Corruptions of the held-out images that need depth, by the code of `clipjax corrupt`."""

from __future__ import annotations

from pathlib import Path

from clipjax.demo.world.files import write_once

KINDS = ("fog_3d", "flash")
SEVERITIES = (1, 3, 5)
NAME = "demo-3dcc"
QUALITY = 90  # of the JPEGs
IMAGES = 60  # a sample with every class


def corrupt_images(world: Path, seed: int) -> None:
    """Copies of a sample of demo-val, unless `world` has them. Raises DataError as `write_once`."""

    def write(folder: Path) -> None:
        from clipjax.evaluation.corrupted import corrupt  # JAX is not loaded for what is there

        corrupt(
            world / "demo-val",
            folder,
            KINDS,
            severities=SEVERITIES,
            dataset="demo_val",
            depth=world / "demo-val-depth",
            jpeg_quality=QUALITY,
            limit=IMAGES,
            seed=seed,
        )

    recipe = {"images": IMAGES, "kinds": KINDS, "severities": SEVERITIES, "quality": QUALITY}
    write_once(world, NAME, recipe, seed, write)
