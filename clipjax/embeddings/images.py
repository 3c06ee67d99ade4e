"""Images -> stored embeddings."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.corrupted.opener import is_corrupted, source_of
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.batching import Batches
from clipjax.data.pixels.decoders import AUTO, Decoders, choose
from clipjax.data.pixels.joined import joined
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.batch_size import BatchChoice
from clipjax.embeddings.batch_size import choose as choose_batch
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import Forward, choose_placement, image_forward
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.outside import answered
from clipjax.embeddings.sets import Embeddings, StoredRows
from clipjax.embeddings.stored_rows import rows_of
from clipjax.embeddings.stream import Batch, Order, Stream
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.models.precision import known_precision

OUTPUTS = ("embedding", "features")


def embed_images(
    model: Encoder,
    manifest: Manifest,
    compute: Compute | None = None,
    *,
    precision: str = "parity",
    output: str = "embedding",
    recipe: PixelRecipe | None = None,
    rows_per_shard: int | None = None,
) -> Embeddings:
    """Like `embed_many`, for one data set."""
    stream = image_stream(model, compute, precision, output, recipe)
    [embeddings] = rows_of(stream, [manifest], rows_per_shard)
    return embeddings


def embed_many(
    model: Encoder,
    manifests: Sequence[Manifest],
    compute: Compute | None = None,
    *,
    precision: str = "parity",
    output: str = "embedding",
    recipe: PixelRecipe | None = None,
    rows_per_shard: int | None = None,
) -> list[Embeddings]:
    """Embed several data sets in one stream, or read stored embeddings; one result per manifest.

    Each data set gets the same bits as alone. Its last batch is padded for one device, only the last step for
    all: D devices of B images take ceil(sum(ceil(n_i / B)) / D) steps for n_1, n_2, ... images. Stored data
    sets with another B have their own stream.

    Args:
        model: a `clipjax.Model`, or what `clipjax.wrap` makes from a user's own.
        manifests: of several with the same images, only the first is embedded if stored.
        compute: default: without stores. A card without a fingerprint is never stored. A batch that exceeds a
            device's memory is halved, while nothing is stored.
        precision: "parity" (float32) or "fast" (bfloat16 tower).
        output: "embedding" (the head's input: unit norm for a zero-shot model, or a classifier whose card
            says so; else raw) or "features" (never normalised).
        recipe: default: the card's own pixels with RGB first.
        rows_per_shard: a multiple of the batch; a stored entry keeps its own.

    Raises:
        DataError: no images, an unreadable one (the other data sets are stored first), none readable,
            features of a wrong shape or not finite, a full disk, or hosts that do not share the store.
        UsageError: an unknown output or precision; pixels that exceed the pixel store's budget.
    """
    return rows_of(image_stream(model, compute, precision, output, recipe), manifests, rows_per_shard)


def image_stream(
    model: Encoder, compute: Compute | None, precision: str, output: str, recipe: PixelRecipe | None
) -> ImageStream:
    """The stream of images that `embed_many` runs."""
    profile = known_precision(precision)
    known_name("output", output, OUTPUTS)
    pixels = model.card.preprocess.recipe(rgb="first") if recipe is None else recipe
    return ImageStream(model, profile, Compute() if compute is None else compute, pixels, output)


@dataclasses.dataclass(frozen=True)
class ImageStream(Stream):
    """Images through the image tower."""

    recipe: PixelRecipe
    output: str

    verb: ClassVar[str] = "embedding"
    unit: ClassVar[str] = "image"
    nothing: ClassVar[str] = "no image could be read"

    def key(self, manifest: Manifest, placement: str) -> dict[str, Any]:
        return image_key(self.model.card, manifest, self.recipe, self.precision, self.output, placement)

    def placement(self, per_device_batch: int, placement: str) -> str:
        return choose_placement(self.model, self.precision, self.output, per_device_batch, placement)

    def fastest(self, placement: str, images: int) -> BatchChoice:
        how = (self.precision, self.output, placement, images)
        return choose_batch(self.model, *how, progress=self.how.progress)

    def forward(self, per_device_batch: int, placement: str) -> Forward:
        return image_forward(self.model, self.precision, self.output, per_device_batch, placement)

    def batches(self, order: Order) -> Generator[Batch]:
        """Inputs are uint8 [B, S, S, 3], or already the features of a model that runs outside."""
        if self.model.outside is not None:
            return answered(self.model.outside, self.recipe, order)
        how = self._how_to_decode(order)
        if self.how.pixel_store is None and not any(is_corrupted(of.manifest) for of, _ in order.parts()):
            whole, rows = _joined(order)
            return _taken(batches(whole, self.recipe, batch_size=order.batch_size, rows=rows, **how))
        return self._apart(order, **how)

    def _how_to_decode(self, order: Order) -> dict[str, Any]:
        if self.how.workers != AUTO:
            return {"workers": self.how.workers, "on_error": "skip"}
        whole, rows = _joined(order)
        shown = self.how.progress and jax.process_index() == 0
        decoders = choose(whole, self.recipe, rows, progress=shown)
        for of, _ in order.parts():
            of.decoders = "" if decoders == Decoders() else str(decoders)
        return {"workers": decoders.workers, "threads": decoders.threads, "on_error": "skip"}

    def _apart(self, order: Order, **how: Any) -> Generator[Batch]:
        """Each data set by itself; a step has the pieces of several, one for each device."""
        parts = order.parts()
        piece = order.batch_size if len(parts) == 1 else order.per_device_batch
        with contextlib.closing(self._pieces(parts, batch_size=piece, **how)) as pieces:
            yield from _stacked(pieces, order.batch_size // piece)

    def _pieces(self, parts: Sequence[tuple[StoredRows, np.ndarray]], **how: Any) -> Generator[Batch]:
        store = self.how.pixel_store
        read = batches if store is None else store.batches
        for of, rows in parts:
            yield from _taken(read(of.manifest, self.recipe, rows=rows, **how))

    def unusable(self, order: Order, step: int, read: np.ndarray, array: np.ndarray) -> dict[int, DataError]:
        """Name a user's own model and the batch; of clipjax's networks the entry names the image."""
        if self.model.network is None and not np.isfinite(array[read]).all():
            raise DataError(
                f"encode_image of {self.model} made numbers that are not finite in batch {step + 1}: what "
                "was stored before stays"
            )
        return {}


def _joined(order: Order) -> tuple[Manifest, np.ndarray]:
    """All images as they are before a corruption, and the rows of these."""
    rows, start = [], 0
    for of, part in order.parts():
        rows.append(np.where(part < 0, part, part + start))
        start += len(of.manifest)
    return joined([source_of(of.manifest) for of, _ in order.parts()]), np.concatenate(rows)


def _taken(source: Batches) -> Generator[Batch]:
    with source:
        for batch in source:
            skipped, source.skipped = source.skipped, []
            yield Batch(batch["pixels"], batch["row"] >= 0, [each.error() for each in skipped])


def _stacked(pieces: Iterator[Batch], count: int) -> Iterator[Batch]:
    while group := list(itertools.islice(pieces, count)):
        if count == 1:
            yield group[0]
            continue
        nothing = Batch(np.zeros_like(group[0].inputs), np.zeros_like(group[0].read), [])
        group += [nothing] * (count - len(group))
        pixels, read = (np.concatenate(column) for column in list(zip(*group))[:2])
        yield Batch(pixels, read, [error for piece in group for error in piece.errors])
