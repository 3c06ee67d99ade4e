"""Batches of a model in a process of its own: encoded images go there, features come back.

As `clipjax.data.pixels.loader.batches`, but for what a batch holds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from clipjax.checkpoints.encoder import Image, Outside
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.batching import SkippedImage
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.stream import Batch, Order, read_ahead
from clipjax.errors import DataError

# The size at which corruptions work.
_CORRUPTED = PixelRecipe(224, 224, rgb="first")


def answered(outside: Outside, recipe: PixelRecipe, order: Order) -> Generator[Batch]:
    """The batches of a stream; inputs are features float32 [B, D]. Raises DataError as `Outside.embed`."""
    for of, rows in order.parts():
        manifest, steps = of.manifest, np.split(rows, len(rows) // order.batch_size)
        images_of = _corrupted if is_corrupted(manifest) else _encoded
        for batch, (images, failed) in zip(steps, images_of(manifest, steps)):
            names = ["" if row < 0 else manifest.opener.where(row) for row in batch.tolist()]
            features, reasons = outside.embed(images, names, recipe)
            why = {row: failed.get(row, reason) for row, reason in zip(batch.tolist(), reasons) if row >= 0}
            lost = [
                SkippedImage(row, manifest.ids[row], str(each))
                for row, each in why.items()
                if each is not None
            ]
            read = np.array([row >= 0 and why[row] is None for row in batch.tolist()])
            yield Batch(features, read, [each.error() for each in lost])


Read = tuple[list[Image], dict[int, str]]
"""A batch of images, and why rows could not be read."""


def _encoded(manifest: Manifest, steps: Sequence[np.ndarray]) -> Iterator[Read]:
    for rows, files in zip(steps, read_ahead(manifest.open, steps)):
        failed = {row: str(file) for row, file in zip(rows.tolist(), files) if isinstance(file, DataError)}
        yield [None if isinstance(file, DataError) else file for file in files], failed


def _corrupted(manifest: Manifest, steps: Sequence[np.ndarray]) -> Iterator[Read]:
    how = {"batch_size": len(steps[0]), "rows": np.concatenate(steps), "on_error": "skip"}
    with batches(manifest, _CORRUPTED, **how) as source:
        for batch in source:
            skipped, source.skipped = source.skipped, []
            images = [None if row < 0 else pixels for row, pixels in zip(batch["row"], batch["pixels"])]
            yield images, {each.row: each.reason for each in skipped}
