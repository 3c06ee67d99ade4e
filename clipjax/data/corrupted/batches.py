"""Batches of images that are corrupted while they are read.

Threads or workers read images and depths; this process corrupts whole batches on its devices, as `write`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import PIL
import PIL.Image
from jax.sharding import Mesh

from clipjax.corruptions.corruption import find_corruption
from clipjax.corruptions.runner import Runner
from clipjax.data.corrupted.inputs import CorruptionInputs, DecodedImage
from clipjax.data.corrupted.opener import CorruptedOpener
from clipjax.data.manifest import ChangedError
from clipjax.data.pixels.preprocess import PixelRecipe, to_pixels
from clipjax.devices.sharding import local_mesh
from clipjax.errors import DataError
from clipjax.storage.remote.buckets import BucketError


class CorruptedElement:
    """(epoch, row) -> {"row", "source", "failed"}; goes to workers, so without shared inputs.

    `contents`: as in `CorruptedOpener`.
    """

    def __init__(self, opener: CorruptedOpener, contents: np.ndarray | None = None) -> None:
        inputs = dataclasses.replace(opener.inputs, shared={})
        self._opener = dataclasses.replace(opener, inputs=inputs, contents=contents)

    def __call__(self, index: tuple[int, int]) -> dict[str, Any]:
        _, row = index
        element: dict[str, Any] = {"row": row, "source": None, "failed": None}
        if row < 0:
            return element
        try:
            return element | {"source": self._opener.read(row)}
        except (BucketError, ChangedError):  # nothing is wrong with the image
            raise
        except DataError as error:
            return element | {"failed": str(error)}


class CorruptedStack:
    """Elements -> a batch of corrupted pixels, as `clipjax.data.pixels.batching.stacked`."""

    def __init__(self, opener: CorruptedOpener, recipe: PixelRecipe) -> None:
        self._opener, self._recipe = opener, recipe

    def __call__(self, elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One batch of pixels from images that were read.

        Args:
            elements: `row`, the number of an image or -1; `source`, the image, None if there is none to
                corrupt; `failed`, why it could not be read, or None.

        Returns:
            pixels: uint8 [B, S, S, 3], zeros where there is no image.
            row: int32 [B], -1 where there is no image.
            failed: (row, reason) of each image that could not be read or corrupted.
        """
        side = self._recipe.image_size
        pixels = np.zeros((len(elements), side, side, 3), np.uint8)
        rows = np.full(len(elements), -1, np.int32)
        reasons = {i: each["failed"] for i, each in enumerate(elements) if each["failed"] is not None}
        usable = {i: each for i, each in enumerate(elements) if each["source"] is not None}
        try:
            for (i, each), made in zip(usable.items(), self._corrupted(list(usable.values()))):
                pixels[i] = to_pixels(PIL.Image.fromarray(made), self._recipe)
                rows[i] = each["row"]
        except DataError as error:  # of a program, or of a recipe that no image of this size fits
            reasons |= dict.fromkeys((i for i in usable if rows[i] < 0), str(error))
        failed = [(elements[i]["row"], reasons[i]) for i in sorted(reasons)]
        return {"pixels": pixels, "row": rows, "failed": failed}

    def _corrupted(self, elements: Sequence[dict[str, Any]]) -> np.ndarray:
        table = self._opener.table
        runner = runner_of(table.kind, table.severity, table.seed, local_mesh())
        ids = [self._opener.ids[each["row"]] for each in elements]
        return corrupt_sources(runner, ids, [each["source"] for each in elements], self._opener.inputs)


def corrupt_sources(
    runner: Runner, ids: Sequence[str], sources: Sequence[DecodedImage], inputs: CorruptionInputs
) -> np.ndarray:
    """uint8 [N, 224, 224, 3]. Raises DataError if the corruption's program fails."""
    if not sources:
        return np.zeros((0, 0, 0, 3), np.uint8)
    own = {name: np.stack([each.extra[name] for each in sources]) for name in runner.needed}
    pixels = np.stack([each.pixels for each in sources])
    try:
        return runner(pixels, ids, {**own, **inputs.shared})
    except DataError as error:
        raise DataError(f"{runner.corruption.name} of the images {ids[0]} to {ids[-1]}: {error}") from None


def software() -> dict[str, str]:
    """Versions and the platform, on which bytes may depend besides the record."""
    return {"jax": jax.__version__, "pillow": PIL.__version__, "platform": jax.default_backend()}


@functools.lru_cache(maxsize=32)
def runner_of(kind: str, severity: int, seed: int, mesh: Mesh) -> Runner:
    """The runner of a corruption, made once for all batches: compiling costs seconds."""
    return Runner(find_corruption(kind), severity, mesh, seed)
