"""Images -> stored embeddings: the only package that runs a model for evaluation.

The rows of a data set are cut into shards (see `clipjax.store`), and work is dealt out by shard: every
process takes its share of those that are missing, embeds them on its own devices and never waits for
another until all are done. Each device always gets the same number of images, fixed when the entry is
created, and runs the same program on them, so the bits of an embedding do not depend on the number of
devices or processes (with a fixed global batch they do: matrix products of other shapes add up in another
order), nor on what else is embedded beside them: small data sets ride together (`embed_many`).
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax.card import embeds_at_unit_norm
from clipjax.data.decoders import AUTO, Workers
from clipjax.data.manifest import Manifest
from clipjax.data.pixel_store import PixelStore
from clipjax.data.preprocess import PixelRecipe
from clipjax.embed.forward import enable_compile_cache, text_encoder
from clipjax.embed.stream import Passenger, Span, Stream, UnreadableError
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.models import FORWARD_VERSION
from clipjax.models.network import known_precision
from clipjax.sharding import assert_same_everywhere, failed_process
from clipjax.store import Entry, Store, check_finite, key_hash

__all__ = [
    "EmbedStats",
    "Embeddings",
    "check_settings",
    "embed_images",
    "embed_many",
    "enable_compile_cache",
    "image_key",
    "text_encoder",
]

_log = logging.getLogger(__name__)

OUTPUTS = ("embedding", "features")
SHARD_ROWS = 512  # at most: what a killed run loses, and a file of 1 MB for embeddings of 512 numbers
SHARDS = 8  # at least, for a data set of more batches than that: a small one can be resumed too
IMAGE_BATCH = 64  # images a device takes in one step, unless the caller says otherwise


@dataclasses.dataclass(frozen=True)
class EmbedStats:
    """What this process did for one data set of an `embed_images` or `embed_many` call.

    A step that carries several data sets counts for the first of them, so that sums over the data sets are
    those of the call.

    Attributes:
        forward_passes: batches run; 0 if everything was in the store.
        images: images embedded.
        compiles: times that the forward pass was compiled.
        decode_seconds: spent waiting for pixels.
        compute_seconds: spent handing over batches and waiting for features.
        skipped: ids of the data set's unreadable images, in order: they have no embedding.
        per_device_batch: images a device took in one step; a stored entry's own, not what was asked for.
        decoders: what decoded, in words, where that was left to a measurement and something was decoded.
    """

    forward_passes: int
    images: int
    compiles: int
    decode_seconds: float
    compute_seconds: float
    skipped: tuple[str, ...]
    per_device_batch: int
    decoders: str = ""

    def plus(self, other: EmbedStats) -> EmbedStats:
        """Both together, for the same data set."""
        names = ("forward_passes", "images", "compiles", "decode_seconds", "compute_seconds")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return dataclasses.replace(self, **sums, decoders=self.decoders or other.decoders)


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """ids [N], array float32 [N, D] in manifest order; `key_hash` names the entry (None: not stored)."""

    ids: list[str]
    array: np.ndarray
    key_hash: str | None
    stats: EmbedStats


def embed_images(model: Any, manifest: Manifest, **settings: Any) -> Embeddings:
    """Embed the images of a data set, or read what is already stored.

    Args:
        settings: those of `embed_many`.

    Raises: what `embed_many` does.
    """
    [found] = embed_many(model, [manifest], **settings)
    return found


def embed_many(
    model: Any,
    manifests: Sequence[Manifest],
    *,
    store: Store | None = None,
    pixel_store: PixelStore | None = None,
    precision: str = "parity",
    per_device_batch: int | None = None,
    rows_per_shard: int | None = None,
    workers: Workers = 0,
    output: str = "embedding",
    recipe: PixelRecipe | None = None,
    progress: bool = True,
    on_error: str = "raise",
) -> list[Embeddings]:
    """Embed the images of several data sets in one stream, or read what is already stored.

    Each gets the bits that it gets alone. The last batch of each is padded for one device, and the last step
    for all: on D devices that take B images each, n_1, n_2, ... images take ceil(sum(ceil(n_i / B)) / D)
    steps, and not the sum of ceil(n_i / (B D)). (Data sets with another B, because stored entries have their
    own, follow in a stream of their own.)

    Args:
        model: a `clipjax.Model`, or any object with a card and `encode_image(float32 [B,H,W,3]) -> [B,D]`.
        manifests: the data sets. Of several with the same images only the first is embedded, if they are
            stored.
        store: where embeddings are kept; with None, or a card without a fingerprint, nothing is kept, and of
            several processes each embeds everything.
        pixel_store: where decoded pixels are kept for the next model; None keeps none. Changes no bit.
        precision: "parity" (float32) or "fast" (bfloat16 tower).
        per_device_batch: images a device takes in one step. An entry that exists keeps its own number.
        rows_per_shard: rows in a stored file, a multiple of the batch; an entry that exists keeps its own.
        workers: processes that decode; 0 decodes in threads, one a core; "auto" tries once what is fastest
            for such images on this machine (`clipjax.data.decoders`).
        output: "embedding" (what the head reads: unit norm for a zero-shot model and for a classifier whose
            card says so, else raw features) or "features" (never normalised).
        recipe: the pixels, default the card's own with RGB first.
        progress: show a bar with the time left on stderr.
        on_error: "raise" on an unreadable image, or "skip" it and list it in the statistics.

    Returns: in the order of `manifests`.

    Raises:
        DataError: no images, an unreadable image, none that can be read, features of a wrong shape or not
            finite, a full disk, or hosts that do not share the store. An unreadable image stops its own data
            set alone: the others are embedded, and stored, before it is raised.
        UsageError: an output, precision, batch, number of workers or `on_error` that does not exist; pixels
            that exceed the budget of the pixel store.
    """
    check_settings(per_device_batch, workers, on_error)
    for manifest in manifests:
        if len(manifest) == 0:
            raise DataError(f"{manifest.name or 'the data set'} has no images to embed")
    profile = known_precision(precision)
    if output not in OUTPUTS:
        raise unknown_name("output", output, list(OUTPUTS))
    pixels: PixelRecipe = model.card.preprocess.recipe(rgb="first") if recipe is None else recipe
    stream = Stream(model, pixels, pixel_store, profile, output, workers, progress, on_error)
    layout = _Layout(per_device_batch, rows_per_shard)
    kept = store if model.card.fingerprint is not None else None
    sets = [_plan(stream, manifest, kept, layout) for manifest in manifests]
    first = {each.name: each for each in reversed(sets)}  # of several with the same images
    _embed(stream, [each for each in sets if first[each.name] is each])
    return [first[each.name].result(counted=first[each.name] is each) for each in sets]


def check_settings(per_device_batch: int | None, workers: Workers, on_error: str) -> None:
    """Raises UsageError for a batch below 1, a number of workers that is none, or an unknown `on_error`."""
    if per_device_batch is not None and per_device_batch < 1:
        raise UsageError(f"the batch size must be at least 1, not {per_device_batch}")
    if workers != AUTO and (not isinstance(workers, int) or workers < 0):
        raise UsageError(f"the number of workers must be at least 0, or {AUTO!r}, not {workers!r}")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}")


def image_key(
    card: Any, manifest: Manifest, recipe: PixelRecipe, precision: str, output: str
) -> dict[str, Any]:
    """What an embedding depends on; `card.fingerprint` covers weights, architecture, mean and std."""
    return {
        "model": card.fingerprint,
        "forward": FORWARD_VERSION,
        "output": output if embeds_at_unit_norm(card) else "features",
        "pixels": recipe.key(),
        "data": manifest.images_digest,
        "precision": precision,
    }


class _Layout(NamedTuple):
    """Images in a device's batch and rows in a stored file, where a data set's own size is not to decide."""

    per_device_batch: int | None
    rows_per_shard: int | None

    def of(self, n: int) -> tuple[int, int]:
        batch = _default_batch(n) if self.per_device_batch is None else self.per_device_batch
        return batch, _default_shard(n, batch) if self.rows_per_shard is None else self.rows_per_shard


def _default_batch(n: int) -> int:
    """IMAGE_BATCH, or the next power of two for a data set smaller than that."""
    return min(IMAGE_BATCH, 1 << (n - 1).bit_length())


def _default_shard(n: int, batch: int) -> int:
    """Whole batches: about an eighth of the data set, SHARD_ROWS at most (or one batch, if that is more)."""
    return batch * max(1, min(SHARD_ROWS, n // SHARDS) // batch)


@dataclasses.dataclass(eq=False)
class _DataSet(Passenger):
    """A data set and where its embeddings go: to an entry of the store, or to memory.

    Attributes:
        name: the entry's, by which those with the same images are known; without an entry of its own.
        found: the ids and embeddings of all rows that could be read, without an entry.
    """

    batch: int = 0
    entry: Entry | None = None
    found: tuple[list[str], np.ndarray] | None = None

    @property
    def name(self) -> str | int:
        return id(self) if self.entry is None else self.entry.key_hash

    def spans(self, first: int, allow_skipped: bool) -> list[Span]:
        """This process's share of the rows that are still to be embedded.

        By a shard's number, not by its place in the list: processes see different lists while another run
        fills the store. Numbers go on (from `first`) over the data sets of a stream, many of which have one.
        """
        if self.entry is None:
            return [Span(self, range(len(self.manifest)))]
        missing = self.entry.missing_shards(allow_skipped=allow_skipped)
        mine = [k for k in missing if (first + k) % jax.process_count() == jax.process_index()]
        return [Span(self, self.entry.shard_rows(k)) for k in mine]

    def keep(self, span: range, rows: np.ndarray, features: np.ndarray) -> None:
        """Keep what has come of a span: the rows that could be read, and their features [n, D]."""
        ids = [self.manifest.ids[row] for row in rows]
        if self.entry is None:
            check_finite(ids, features)
            self.found = ids, features
            return
        read = set(rows.tolist())
        skipped = [self.manifest.ids[row] for row in span if row not in read]
        self.entry.write_shard(
            span.start // self.entry.manifest.rows_per_shard, ids, features, skipped=skipped
        )

    def result(self, counted: bool) -> Embeddings:
        """All rows; raises DataError where no image could be read. Not `counted`: as if read from a store."""
        if self.entry is not None:
            self.found = self.entry.read()
        assert self.found is not None
        ids, array = self.found
        if not ids:
            name = self.manifest.name or "the data set"
            raise DataError(f"{name}: no image could be read, all were skipped")
        present = set(ids)
        skipped = tuple(name for name in self.manifest.ids if name not in present)
        done = (self.forward_passes, self.images, self.compiles, self.decode_seconds, self.compute_seconds)
        stats = EmbedStats(*(done if counted else (0, 0, 0, 0.0, 0.0)), skipped, self.batch, self.decoders)
        return Embeddings(ids, array, self.entry and self.entry.key_hash, stats)


def _plan(stream: Stream, manifest: Manifest, store: Store | None, layout: _Layout) -> _DataSet:
    batch, shard = layout.of(len(manifest))
    if store is None:
        return _DataSet(manifest, batch=batch)
    key = image_key(stream.model.card, manifest, stream.recipe, stream.precision, stream.output)
    entry = _open(store, key, stream.model, manifest, shard, batch)
    return _DataSet(manifest, batch=entry.manifest.per_device_batch, entry=entry)


def _open(
    store: Store, key: dict[str, Any], model: Any, manifest: Manifest, rows_per_shard: int, batch: int
) -> Entry:
    """The entry, after a check that all processes mean the same one and see the same disk."""
    if rows_per_shard < 1 or rows_per_shard % batch:
        raise UsageError(f"{rows_per_shard} rows a shard is not a multiple of the batch of {batch} images")
    assert_same_everywhere("what to embed (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=manifest.ids,
        rows_per_shard=rows_per_shard,
        per_device_batch=batch,
        about={"model": str(model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def _embed(stream: Stream, sets: Sequence[_DataSet]) -> None:
    """Make this process's share of what is missing; then wait for the others."""
    firsts = itertools.accumulate((each.entry.shards if each.entry else 1 for each in sets), initial=0)
    stored, failure = any(each.entry for each in sets), None
    try:
        spans = [
            (each, span)
            for each, first in zip(sets, firsts)
            for span in each.spans(first, allow_skipped=stream.on_error == "skip")
        ]
        stopped: dict[Passenger, DataError] = {}
        for batch in dict.fromkeys(each.batch for each in sets):
            stopped |= _run(stream, [pair for pair in spans if pair[0].batch == batch], batch)
        for each in sets:
            if each in stopped:
                raise stopped[each]
    except Exception as error:
        failure = error
    if stored:
        _finish_together(failure)
    elif failure is not None:
        raise failure


def _run(stream: Stream, spans: Sequence[tuple[_DataSet, Span]], batch: int) -> dict[Passenger, DataError]:
    """Embed the spans and keep what comes; returns the data sets that an unreadable image has stopped.

    The others go on without them, in a stream that starts where it was.
    """
    pending, stopped = collections.deque(spans), {}
    while pending:
        try:
            for rows, features in stream.run([span for _, span in pending], batch):
                each, span = pending.popleft()
                each.keep(span.rows, rows, features)
        except UnreadableError as error:
            stopped |= error.errors
            pending = collections.deque(pair for pair in pending if pair[0] not in stopped)
    return stopped


def _finish_together(failure: Exception | None) -> None:
    """Wait for the other processes, then fail on all of them if one has failed.

    A process that just left would keep the others waiting; so it says at once what is wrong, and they store
    what they are at.
    """
    if failure is not None and jax.process_count() > 1:
        _log.error("%s (waiting for the other processes to store their shards)", failure)
    failed = failed_process(failure)
    if failure is not None:
        raise failure
    if failed is not None:
        raise DataError(f"embedding failed on process {failed}: see its message; run again to resume")
