"""Manifest rows -> batches of pixels, through grain.

Every batch has one shape: row -1 is padding or a skipped image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from clipjax.data.corrupted.batches import CorruptedElement, CorruptedStack
from clipjax.data.corrupted.opener import CorruptedOpener, refuse_corrupted
from clipjax.data.manifest import ChangedError, Manifest, Opener
from clipjax.data.pixels.augment import Augmentation, augmented_pixels, image_generator
from clipjax.data.pixels.batching import Batches, batched, check_options, pad_rows, stacked
from clipjax.data.pixels.limits import DECODED
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, open_scaled, to_pixels, to_rgb
from clipjax.errors import DataError
from clipjax.storage.remote.buckets import BucketError


def batches(
    manifest: Manifest,
    recipe: PixelRecipe,
    *,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    threads: int | None = None,
    on_error: str = "raise",
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> Batches:
    """Batches of the rows, in their order.

    Args:
        batch_size: B. The last batch is padded with rows of -1 and pixels of zero.
        rows: indices into the manifest, default all; -1 is padding.
        workers: processes that decode; 0: threads of this process do.
        threads: per process; default one per core (one in a worker).
        on_error: "raise" for an unreadable image, or "skip": it becomes padding.
        augmentation: a random view replaces the recipe's resize and crop.

    Raises:
        DataError: on iteration, in the order of the rows.
        UsageError: see `check_options`; a random view of images that are corrupted while they are read.
    """
    import grain  # loaded late: a run whose embeddings are stored decodes nothing

    check_options(batch_size, workers, threads, on_error)
    if augmentation is not None:
        refuse_corrupted(manifest)
    rows = np.arange(len(manifest)) if rows is None else np.asarray(rows)
    padded = pad_rows(rows, batch_size)
    read, stack = Decode(manifest.checked_opener, recipe, manifest.ids, augmentation, seed), stacked
    if augmentation is None and isinstance(manifest.opener, CorruptedOpener):
        read = CorruptedElement(manifest.opener, manifest.contents)
        stack = CorruptedStack(manifest.opener, recipe)
    elements = grain.MapDataset.source([(epoch, row) for row in padded.tolist()]).map(read)
    return Batches(batched(elements, batch_size, workers, threads, stack), manifest.ids, on_error == "skip")


def process_rows(n_rows: int, batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """A process's contiguous part of rows 0 .. n_rows-1, padded with -1: all take equally many steps.

        process_rows(5, 2, 0, 2)    # [0, 1, 2, 3]
        process_rows(5, 2, 1, 2)    # [4, -1, -1, -1]

    Returns: int32 [steps * batch_size]; `batch_size` is per process.
    """
    steps = -(-n_rows // (batch_size * process_count))
    part = np.arange(n_rows)[process_index * steps * batch_size : (process_index + 1) * steps * batch_size]
    return np.concatenate([part, np.full(steps * batch_size - len(part), -1)]).astype(np.int32)


@dataclasses.dataclass
class Kept:
    """Decoded images by row, which every epoch reads: those that fit into `room` bytes."""

    room: int
    images: dict[int, Any] = dataclasses.field(default_factory=dict)

    def add(self, row: int, image: np.ndarray | PIL.Image.Image) -> None:
        size = (
            image.nbytes if isinstance(image, np.ndarray) else 4 * image.width * image.height
        )  # as Pillow has it
        if size <= self.room:
            self.room -= size
            self.images[row] = image


@dataclasses.dataclass(frozen=True)
class Decode:
    """(epoch, row) -> {"pixels", "row", "failed"}. A failure is a value, so that it arrives in order."""

    opener: Opener
    recipe: PixelRecipe
    ids: tuple[str, ...]
    augmentation: Augmentation | None
    seed: int
    kept: Kept | None = None

    def __call__(self, index: tuple[int, int]) -> dict[str, Any]:
        epoch, row = index
        if row >= 0:
            try:
                return {"pixels": self._pixels(epoch, row), "row": np.int32(row), "failed": None}
            except (BucketError, ChangedError):  # nothing is wrong with the image
                raise
            except DataError as error:
                failed = (row, str(error))
        else:
            failed = None
        side = self.recipe.image_size
        return {"pixels": np.zeros((side, side, 3), np.uint8), "row": np.int32(-1), "failed": failed}

    def _pixels(self, epoch: int, row: int) -> np.ndarray:
        if self.kept is not None and row in self.kept.images:
            return self._view(epoch, row, self.kept.images[row])
        where = self.opener.where(row)
        data, scale = self.opener.open(row), None
        with DECODED.waiting() as before:
            if self.augmentation is None and self.recipe.decode == "jpeg_scaled":
                image, scale = open_scaled(data, where, self.recipe, before=before)
            else:
                image = open_image(data, where, before=before)
            try:
                same = to_pixels(image, self.recipe, scale) if self.augmentation is None else to_rgb(image)
            except DataError as error:
                raise DataError(f"{where}: {error}; replace or remove it") from None
            if self.kept is not None:
                self.kept.add(row, same)
            return self._view(epoch, row, same)

    def _view(self, epoch: int, row: int, same: Any) -> np.ndarray:
        """The epoch's pixels; `same` are the pixels, or the RGB image of which an epoch has a random view."""
        if self.augmentation is None:
            return same
        rng = image_generator(self.seed, epoch, self.ids[row], "pixels")
        return augmented_pixels(same, self.augmentation, self.recipe.image_size, rng)
