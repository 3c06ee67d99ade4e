"""Batches of images, features or random views; features of a split."""

from __future__ import annotations

import dataclasses
from typing import Any

import grain
import jax
import numpy as np

from clipjax.data.pixels.batching import Batches
from clipjax.data.pixels.decoders import AUTO, WORTH, choose
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.pixels.training_batches import TrainingBatches, training_batches, training_order
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.images import embed_images
from clipjax.errors import UsageError
from clipjax.finetune.data.splits import Split
from clipjax.finetune.method import Setup

# Prepare batches of features ahead: finding their order takes longer than the step of a small head.
_BATCHES_AHEAD = 2


def image_batches(setup: Setup, *, captions: np.ndarray | None = None) -> TrainingBatches:
    """Yield the process's endless batches of the training split, augmented by the recipe.

    Args:
        captions: int32 [K,T,L], token ids of T captions per class; each image draws one per epoch.

    Returns: {"pixels": uint8 [b,S,S,3], "label": int32 [b], "row": int32 [b]} and, with captions, "tokens"
        int32 [b,L]; b is one process's batch.

    Raises:
        UsageError: the batch does not divide over the processes.
        DataError: on iteration, an unreadable image.
    """
    return training_batches(
        setup.train.manifest,
        _pixels(setup),
        batch_size=_process_batch(setup),
        seed=setup.seed,
        augmentation=setup.recipe.augmentation,
        labels=setup.train.labels,
        class_tokens=captions,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **_decoding(setup, setup.steps * setup.recipe.batch_size),
    )


def feature_batches(setup: Setup, features: np.ndarray) -> TrainingBatches:
    """Like `image_batches`, in the same order, with "features" float32 [b,D] in place of pixels.

    `features` is float32 [N,D]. Raises UsageError if the batch does not divide over the processes.
    """
    size, labels = _process_batch(setup), setup.train.labels
    order = training_order(
        len(setup.train), setup.seed, process_index=jax.process_index(), process_count=jax.process_count()
    )

    def stack(elements: Any) -> dict[str, np.ndarray]:
        rows = np.array([row for _, row in elements], np.int32)
        return {"features": features[rows], "label": labels[rows].astype(np.int32), "row": rows}

    def batches_from(done: int) -> grain.IterDataset:
        elements = order.slice(slice(done * size, None))
        dataset = elements.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        dataset = dataset.batch(size, drop_remainder=True, batch_fn=stack)
        return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=_BATCHES_AHEAD)

    return TrainingBatches(batches_from)


def view_batches(setup: Setup, view: int) -> Batches:
    """One pass in manifest order over random view `view` of every image.

    Every process reads all images, in the recipe's full batches. Without augmentation all views are equal.

    Returns: {"pixels": uint8 [B,S,S,3], "row": int32 [B]}; row is -1 for padding.
    """
    return batches(
        setup.train.manifest,
        _pixels(setup),
        batch_size=setup.recipe.batch_size,
        **_decoding(setup, len(setup.train)),
        augmentation=setup.recipe.augmentation,
        seed=setup.seed,
        epoch=view,
    )


def split_features(setup: Setup, split: Split) -> np.ndarray:
    """Features float32 [N,D] in manifest order, unaugmented, of unit norm if the card's embeddings are.

    Raises DataError for an unreadable image.
    """
    how = setup.settings
    compute = Compute(store=how.store, workers=how.workers, progress=how.progress)
    return embed_images(setup.model, split.manifest, compute, precision=setup.recipe.precision).array


def _pixels(setup: Setup) -> PixelRecipe:
    return setup.model.card.preprocess.recipe(rgb="first")


def _process_batch(setup: Setup) -> int:
    size, processes = setup.recipe.batch_size, jax.process_count()
    if size % processes:
        raise UsageError(f"a batch of {size} does not divide over {processes} processes")
    return size // processes


def _decoding(setup: Setup, images: int) -> dict[str, Any]:
    settings = setup.settings
    if settings.workers != AUTO:
        return {"workers": settings.workers}
    # How images are decoded changes no batch.
    enough = min(images, max(len(setup.train), WORTH))
    rows = np.resize(np.arange(len(setup.train)), enough)
    shown = settings.progress and jax.process_index() == 0
    return dataclasses.asdict(choose(setup.train.manifest, _pixels(setup), rows, progress=shown))
