"""Images -> stored embeddings.

Every process embeds its share of the missing shards, and waits for the others only at the end. An entry fixes
a device's batch, so bits do not depend on the number of devices. A fixed global batch would change them:
matrix products of other shapes add up in another order.
"""

from __future__ import annotations

import collections
import itertools
import json
import logging
from collections.abc import Sequence

import jax

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.devices.agreement import failed_process, first_decides, largest_everywhere
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import OutOfMemoryError
from clipjax.embeddings.sets import (
    DataSet,
    Embeddings,
    LayoutChoice,
    data_set,
)
from clipjax.embeddings.stream import Passenger, Span, Stream, UnreadableError
from clipjax.errors import DataError, unknown_name
from clipjax.models.precision import known_precision

_log = logging.getLogger(__name__)

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
    """As `embed_many`, for one data set."""
    [embeddings] = embed_many(
        model,
        [manifest],
        compute,
        precision=precision,
        output=output,
        recipe=recipe,
        rows_per_shard=rows_per_shard,
    )
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
    how = Compute() if compute is None else compute
    for manifest in manifests:
        if len(manifest) == 0:
            raise DataError(f"{manifest.name or 'the data set'} has no images to embed")
    profile = known_precision(precision)
    if output not in OUTPUTS:
        raise unknown_name("output", output, list(OUTPUTS))
    pixels: PixelRecipe = model.card.preprocess.recipe(rgb="first") if recipe is None else recipe
    stream = Stream(
        model=model,
        recipe=pixels,
        pixel_store=how.pixel_store,
        precision=profile,
        output=output,
        workers=how.workers,
        progress=how.progress,
        on_error=how.on_error,
    )
    return rows_of(stream, manifests, how, rows_per_shard)


def rows_of(
    stream: Stream, manifests: Sequence[Manifest], how: Compute, rows_per_shard: int | None = None
) -> list[Embeddings]:
    """The stored rows of each data set, made by the stream where they are missing; raises as `embed_many`."""
    kept = how.store if stream.model.card.fingerprint is not None else None
    choice = LayoutChoice(how.per_device_batch, rows_per_shard, how.params)
    sets = [data_set(stream, manifest, kept, choice) for manifest in manifests]
    first = {each.name: each for each in reversed(sets)}  # the first of those with the same images
    _embed(stream, [each for each in sets if first[each.name] is each])
    return [first[each.name].result(counted=first[each.name] is each) for each in sets]


def _embed(stream: Stream, sets: Sequence[DataSet]) -> None:
    stored, too_many = any(each.entry for each in sets), 1
    while too_many:
        failure, too_many = None, 0
        try:
            _make(stream, sets)
        except OutOfMemoryError as error:
            too_many = error.per_device_batch  # then all begin again with half of it
        except Exception as error:
            failure = error
        if stored:
            finish_together(failure)
            too_many = largest_everywhere(too_many)
        elif failure is not None:
            raise failure
        if too_many:
            _halve(stream, sets, too_many)


def _make(stream: Stream, sets: Sequence[DataSet]) -> None:
    firsts = itertools.accumulate((each.entry.shards if each.entry else 1 for each in sets), initial=0)
    spans = [
        (each, span)
        for each, first in zip(sets, firsts)
        for span in each.spans(first, allow_skipped=stream.on_error == "skip")
    ]
    stopped: dict[Passenger, DataError] = {}
    for batch, params in dict.fromkeys((each.layout.batch, each.layout.params) for each in sets):
        alike = [pair for pair in spans if pair[0].layout[:2] == (params, batch)]
        stopped |= _run(stream, alike, batch, params)
    for each in sets:
        if each in stopped:
            raise stopped[each]


def _run(
    stream: Stream, spans: Sequence[tuple[DataSet, Span]], batch: int, params: str
) -> dict[Passenger, DataError]:
    """Returns the data sets that an unreadable image stopped."""
    pending, stopped = collections.deque(spans), {}
    while pending:
        try:
            for rows, features in stream.run([span for _, span in pending], batch, params):
                each, span = pending.popleft()
                each.keep(span.rows, rows, features)
        except UnreadableError as error:
            stopped |= error.errors
            # The others continue without them, in a new stream.
            pending = collections.deque(pair for pair in pending if pair[0] not in stopped)
    return stopped


def _halve(stream: Stream, sets: Sequence[DataSet], too_many: int) -> None:
    def decide() -> str:
        skipped = stream.on_error == "skip"
        large = [i for i, each in enumerate(sets) if each.layout.batch >= too_many]
        return json.dumps([i for i in large if sets[i].missing(allow_skipped=skipped)])

    # While another run fills the store, processes may see different data sets: the first one decides.
    stored = any(each.entry for each in sets)
    for i in json.loads(first_decides(decide, "with what batch to go on") if stored else decide()):
        sets[i].halve()
        _log.warning(
            "%s: %d images do not fit a device's memory: going on with %d",
            sets[i].manifest.name or "the data set",
            too_many,
            sets[i].layout.batch,
        )


def finish_together(failure: Exception | None) -> None:
    """Every process calls this once its shards are stored, or it failed; raises if any did."""
    # This process must not leave, or the others would wait for ever. They store their current shards.
    if failure is not None and jax.process_count() > 1:
        _log.error("%s (waiting for the other processes to store their shards)", failure)
    failed = failed_process(failure)
    if failure is not None:
        raise failure
    if failed is not None:
        raise DataError(f"embedding failed on process {failed}: see its message; run again to resume")
