"""Batches of a model in a process of its own: encoded images go there, features come back.

As `clipjax.data.pixels.loader.batches`, but for what a batch holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from clipjax.checkpoints.encoder import Image, Outside
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.manifest import ChangedError, Manifest
from clipjax.data.pixels.batching import Skipped
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import DataError
from clipjax.storage.buckets import BucketError

# The size at which corruptions work.
_CORRUPTED = PixelRecipe(224, 224, rgb="first")


class Answered(NamedTuple):
    """Features float32 [B, D], `read` bool [B] (False for padding and unreadable images), these images."""

    features: np.ndarray
    read: np.ndarray
    skipped: list[Skipped]


def answered(
    outside: Outside, manifest: Manifest, recipe: PixelRecipe, rows: np.ndarray, batch_size: int
) -> Iterator[Answered]:
    """Batches of `rows`, int [n * batch_size] with -1 for padding.

    Raises DataError as `Outside.embed`.
    """
    of = _corrupted if is_corrupted(manifest) else _encoded
    for batch, (images, failed) in zip(
        np.split(rows, len(rows) // batch_size), of(manifest, rows, batch_size)
    ):
        names = ["" if row < 0 else manifest.opener.where(row) for row in batch.tolist()]
        features, reasons = outside.embed(images, names, recipe)
        why = [failed.get(row, reason) for row, reason in zip(batch.tolist(), reasons)]
        skipped = [
            Skipped(row, manifest.ids[row], str(r)) for row, r in zip(batch.tolist(), why) if r is not None
        ]
        yield Answered(features, np.array([row >= 0 and r is None for row, r in zip(batch, why)]), skipped)


Read = tuple[list[Image], dict[int, str]]
"""A batch of images, and why rows could not be read."""


def _encoded(manifest: Manifest, rows: np.ndarray, batch_size: int) -> Iterator[Read]:
    """Files of the next batch are read while one is embedded."""
    with ThreadPoolExecutor() as pool:
        ahead: list[Future[bytes | DataError | None]] = []
        for start in range(0, len(rows) + batch_size, batch_size):
            waiting = ahead
            ahead = [pool.submit(_file, manifest, row) for row in rows[start : start + batch_size].tolist()]
            if waiting:
                files = [future.result() for future in waiting]
                before = rows[start - batch_size : start].tolist()
                failed = {row: str(file) for row, file in zip(before, files) if isinstance(file, DataError)}
                yield [None if isinstance(file, DataError) else file for file in files], failed


def _file(manifest: Manifest, row: int) -> bytes | DataError | None:
    if row < 0:
        return None
    try:
        return manifest.open(row)
    except (BucketError, ChangedError):  # nothing is wrong with the image
        raise
    except DataError as error:
        return error


def _corrupted(manifest: Manifest, rows: np.ndarray, batch_size: int) -> Iterator[Read]:
    with batches(manifest, _CORRUPTED, batch_size=batch_size, rows=rows, on_error="skip") as source:
        for batch in source:
            skipped, source.skipped = source.skipped, []
            images = [None if row < 0 else pixels for row, pixels in zip(batch["row"], batch["pixels"])]
            yield images, {each.row: each.reason for each in skipped}
