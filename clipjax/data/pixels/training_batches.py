"""Manifest rows -> shuffled batches for training, through grain. They resume exactly."""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from clipjax.data.corrupted.opener import refuse_corrupted
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.augment import Augmentation, image_generator
from clipjax.data.pixels.batching import batched, stacked, whole_batches
from clipjax.data.pixels.loader import Decode, Kept
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.errors import DataError, UsageError

# A training set of at most this many bytes of pixels is decoded once, not in every epoch; with random views,
# as many of its images as fit.
_KEPT_BYTES = 2**28
# The order of at most this many images is kept for an epoch.
_FEW = 4096
_MAKING = threading.Lock()  # threads that reach an epoch together make its order once


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
    small = not workers and len(manifest) * 3 * recipe.image_size**2 <= _KEPT_BYTES
    kept = Kept(_KEPT_BYTES) if small else None
    decode = Decode(manifest.checked_opener, recipe, manifest.ids, augmentation, seed, kept)
    choices = 0 if class_tokens is None else class_tokens.shape[1]
    element = _TrainingElement(decode, texts, choices)
    stack = _StackForTraining(tokenize, labels, class_tokens)
    order = training_order(len(manifest), seed, epochs, process_index, process_count)

    def batches_from(done: int) -> grain.IterDataset:
        indices = order.slice(slice(done * batch_size, None))
        if small:
            return whole_batches(indices, batch_size, threads, element, stack)
        return batched(indices.map(element), batch_size, workers, threads, stack, drop_remainder=True)

    return TrainingBatches(batches_from)


def training_order(
    images: int, seed: int, epochs: int | None = None, process_index: int = 0, process_count: int = 1
) -> grain.MapDataset[tuple[int, int]]:
    """(epoch, row) in a process's order; each epoch is shuffled anew."""
    if images <= _FEW:
        order = grain.MapDataset.range(images).repeat(epochs)
        order = order.map_with_index(
            lambda index, row: (index // images, _row(images, seed, index // images, row))
        )
    else:
        order = _shuffled(images, seed).repeat(epochs)
        order = order.map_with_index(lambda index, row: (index // images, row))
    return order.slice(slice(process_index, None, process_count))


def _shuffled(images: int, seed: int) -> grain.MapDataset[int]:
    return grain.MapDataset.range(images).seed(seed).shuffle()


def _row(images: int, seed: int, epoch: int, place: int) -> int:
    with _MAKING:
        return int(_epoch_order(images, seed, epoch)[place])


@functools.lru_cache(maxsize=128)
def _epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of an epoch, int [images].

    grain draws from 65,536 numbers until one is a row: of 192 rows each takes 0.15 ms.
    """
    shuffled = _shuffled(images, seed)
    return np.array([shuffled[epoch * images + place] for place in range(images)])


@dataclasses.dataclass(frozen=True)
class _TrainingElement:
    """Adds the drawn caption, "text", or its number, "choice"."""

    decode: Decode
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
