"""Manifest rows -> batches of pixels, through grain.

Every batch has one shape: row -1 is padding or a skipped image.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from clipjax.data.corrupted.batches import CorruptedElement, CorruptedStack
from clipjax.data.corrupted.opener import CorruptedOpener, refuse_corrupted
from clipjax.data.manifest import ChangedError, Manifest, Opener
from clipjax.data.pixels.augment import Augmentation, augmented_pixels, image_generator
from clipjax.data.pixels.batching import Batches, batched, check_options, pad_rows, stacked
from clipjax.data.pixels.limits import DECODED
from clipjax.data.pixels.preprocess import PixelRecipe, open_image, open_scaled, to_pixels
from clipjax.errors import DataError, UsageError
from clipjax.storage.buckets import BucketError

# A training set of at most this many bytes of pixels is decoded once, not in every epoch.
_KEPT_BYTES = 2**28


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
    check_options(batch_size, workers, threads, on_error)
    if augmentation is not None:
        refuse_corrupted(manifest)
    rows = np.arange(len(manifest)) if rows is None else np.asarray(rows)
    padded = pad_rows(rows, batch_size)
    read, stack = _Decode(manifest.checked_opener, recipe, manifest.ids, augmentation, seed), stacked
    if augmentation is None and isinstance(manifest.opener, CorruptedOpener):
        read, stack = CorruptedElement(manifest.opener), CorruptedStack(manifest.opener, recipe)
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


class TrainingBatches(grain.DatasetIterator[dict[str, Any]]):
    """Batches of some epochs, or endless; `get_state()` and `set_state(state)` resume exactly.

    The number of batches read is the whole state: seed, epoch and image decide all randomness.
    """

    def __init__(self, batches_from: Callable[[int], grain.IterDataset]) -> None:
        """`batches_from(n)` gives the batches after the first n."""
        super().__init__()
        self._batches_from = batches_from
        self._done = 0
        self._running: list[grain.DatasetIterator] = []  # none or one
        # Threads that still read ahead at interpreter exit would abort it.
        weakref.finalize(self, _close_all, self._running)

    def __next__(self) -> dict[str, Any]:
        self._assert_not_closed()
        self.start_prefetch()
        batch = next(self._running[0])
        for _, reason in batch.pop("failed", ()):
            raise DataError(reason)
        self._done += 1
        return batch

    def start_prefetch(self) -> None:
        if not self._running:
            self._running.append(iter(self._batches_from(self._done)))
            self._running[0].start_prefetch()

    def get_state(self) -> dict[str, Any]:
        return {"batches": self._done}

    def set_state(self, state: dict[str, Any]) -> None:
        done = int(state["batches"])
        _close_all(self._running)
        self._done = done

    def close(self) -> None:
        _close_all(self._running)
        super().close()


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()


def training_batches(
    manifest: Manifest,
    recipe: PixelRecipe,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    augmentation: Augmentation | None = None,
    labels: np.ndarray | None = None,
    captions: str | None = None,
    tokenize: Callable[[list[str]], np.ndarray] | None = None,
    class_tokens: np.ndarray | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int | None = None,
) -> TrainingBatches:
    """Shuffled batches, endless without `epochs`; each epoch has its own order.

    The seed alone decides the order; seed, epoch and image decide a random view or caption. An incomplete
    last batch is dropped. Together the processes read every image once an epoch.

    Args:
        batch_size: B, per process.
        labels: int [N], added to the batch.
        captions: column of captions, or of lists to draw one from each time.
        tokenize: texts -> int32 [B,L]; default: the batch holds the texts.
        class_tokens: int32 [K,T,L], T captions per class, one drawn each time.

    Returns: iterator of {"pixels": uint8 [B,S,S,3], "row": int32 [B]} and, if asked for, "label" int32 [B],
        "tokens" int32 [B,L] or "text".

    Raises:
        DataError: the manifest lacks the column; on iteration, an unreadable image.
        UsageError: class tokens without labels, or together with captions; images that are corrupted while
            they are read.
    """
    refuse_corrupted(manifest)
    if captions is not None and captions not in manifest.columns:
        raise DataError(
            f"{manifest.name}: no column {captions!r}; it has {', '.join(manifest.columns) or 'none'}"
        )
    if class_tokens is not None and (labels is None or captions is not None):
        raise UsageError("class tokens need labels, and take the place of captions")
    texts = None if captions is None else manifest.columns[captions]
    keep = augmentation is None and not workers and len(manifest) * 3 * recipe.image_size**2 <= _KEPT_BYTES
    decode = _Decode(manifest.checked_opener, recipe, manifest.ids, augmentation, seed, {} if keep else None)
    choices = 0 if class_tokens is None else class_tokens.shape[1]
    element = _TrainingElement(decode, texts, choices)
    stack = _StackForTraining(tokenize, labels, class_tokens)
    order = training_order(len(manifest), seed, epochs, process_index, process_count)

    def batches_from(done: int) -> grain.IterDataset:
        elements = order.slice(slice(done * batch_size, None)).map(element)
        return batched(elements, batch_size, workers, threads, stack, drop_remainder=True)

    return TrainingBatches(batches_from)


def training_order(
    images: int, seed: int, epochs: int | None = None, process_index: int = 0, process_count: int = 1
) -> grain.MapDataset[tuple[int, int]]:
    """(epoch, row) in a process's order; each epoch is shuffled anew."""
    order = grain.MapDataset.range(images).seed(seed).shuffle().repeat(epochs)
    order = order.map_with_index(lambda index, row: (index // images, row))
    return order.slice(slice(process_index, None, process_count))


@dataclasses.dataclass(frozen=True)
class _Decode:
    """(epoch, row) -> {"pixels", "row", "failed"}. A failure is a value, so that it arrives in order."""

    opener: Opener
    recipe: PixelRecipe
    ids: tuple[str, ...]
    augmentation: Augmentation | None
    seed: int
    kept: dict[int, np.ndarray] | None = None  # pixels by row, where every epoch has the same

    def __call__(self, index: tuple[int, int]) -> dict[str, Any]:
        epoch, row = index
        if row >= 0:
            try:
                return {"pixels": self._kept_pixels(epoch, row), "row": np.int32(row), "failed": None}
            except (BucketError, ChangedError):  # nothing is wrong with the image
                raise
            except DataError as error:
                failed = (row, str(error))
        else:
            failed = None
        side = self.recipe.image_size
        return {"pixels": np.zeros((side, side, 3), np.uint8), "row": np.int32(-1), "failed": failed}

    def _kept_pixels(self, epoch: int, row: int) -> np.ndarray:
        if self.kept is None:
            return self._pixels(epoch, row)
        if row not in self.kept:
            self.kept[row] = self._pixels(epoch, row)
        return self.kept[row]

    def _pixels(self, epoch: int, row: int) -> np.ndarray:
        where = self.opener.where(row)
        data, scale = self.opener.open(row), None
        with DECODED.waiting() as before:
            if self.augmentation is None and self.recipe.decode == "jpeg_scaled":
                image, scale = open_scaled(data, where, self.recipe, before=before)
            else:
                image = open_image(data, where, before=before)
            try:
                if self.augmentation is None:
                    return to_pixels(image, self.recipe, scale)
                rng = image_generator(self.seed, epoch, self.ids[row], "pixels")
                return augmented_pixels(image, self.augmentation, self.recipe.image_size, rng)
            except DataError as error:
                raise DataError(f"{where}: {error}; replace or remove it") from None


@dataclasses.dataclass(frozen=True)
class _TrainingElement:
    """Adds the drawn caption, "text", or its number, "choice"."""

    decode: _Decode
    texts: list | None
    choices: int

    def __call__(self, index: tuple[int, int]) -> dict[str, Any]:
        epoch, row = index
        element = self.decode(index)
        if self.texts is not None:
            text = self.texts[row]
            element["text"] = text if isinstance(text, str) else text[self._draw(epoch, row, len(text))]
        if self.choices:
            element["choice"] = self._draw(epoch, row, self.choices)
        return element

    def _draw(self, epoch: int, row: int, choices: int) -> int:
        rng = image_generator(self.decode.seed, epoch, self.decode.ids[row], "caption")
        return int(rng.integers(choices))


@dataclasses.dataclass(frozen=True)
class _StackForTraining:
    tokenize: Callable[[list[str]], np.ndarray] | None
    labels: np.ndarray | None
    class_tokens: np.ndarray | None

    def __call__(self, elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = stacked(elements)
        if batch["failed"]:  # raised by the consumer: grain adds its own words to an error
            return batch
        if self.labels is not None:
            batch["label"] = self.labels[batch["row"]].astype(np.int32)
        if self.class_tokens is not None:
            choices = [element["choice"] for element in elements]
            batch["tokens"] = self.class_tokens[batch["label"], choices]
        elif "text" in elements[0]:
            texts = [element["text"] for element in elements]
            batch |= {"text": texts} if self.tokenize is None else {"tokens": self.tokenize(texts)}
        return batch
