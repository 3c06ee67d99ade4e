"""The rows of data sets: read where they are stored, made by a stream where they are missing.

Every process makes its share of the missing shards, and waits for the others only at the end. An entry fixes
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

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.decoders import AUTO
from clipjax.devices.agreement import (
    assert_same_everywhere,
    failed_process,
    first_decides,
    largest_everywhere,
)
from clipjax.embeddings.forward import OutOfMemoryError
from clipjax.embeddings.placements import placements
from clipjax.embeddings.sets import Embeddings, Layout, StoredRows, default_shard
from clipjax.embeddings.stream import Stream
from clipjax.errors import DataError, UsageError
from clipjax.storage.entry import Entry, key_hash
from clipjax.storage.store import Store

_log = logging.getLogger(__name__)


def rows_of(
    stream: Stream, manifests: Sequence[Manifest], rows_per_shard: int | None = None
) -> list[Embeddings]:
    """The rows of each data set; raises as `embed_many`."""
    for manifest in manifests:
        if not stream.ids(manifest):
            raise DataError(f"{manifest.name or 'the data set'} has no images to embed")
    sets = [stored_rows(stream, manifest, rows_per_shard) for manifest in manifests]
    first = {each.key: each for each in reversed(sets)}  # the first of those with the same images
    make(stream, [each for each in sets if first[each.key] is each])
    return [first[each.key].result(counted=first[each.key] is each, nothing=stream.nothing) for each in sets]


def stored_rows(stream: Stream, manifest: Manifest, rows_per_shard: int | None = None) -> StoredRows:
    """A data set's rows with their layout and any stored entry; all processes call this, and agree.

    Raises:
        UsageError: the rows of a shard are not a multiple of the batch.
        DataError: the processes make different rows, or do not share the store.
    """
    store, ids = stream.how.store, stream.ids(manifest)
    if store is None or stream.model.card.fingerprint is None:
        return StoredRows(manifest, ids, _choose(stream, len(ids), rows_per_shard))

    def decide() -> str:
        for placement in placements(stream.how.params):
            if (kept := store.find(stream.key(manifest, placement))) is not None:
                return json.dumps(Layout(placement, kept.per_device_batch, kept.rows_per_shard))
        return json.dumps(_choose(stream, len(ids), rows_per_shard))

    layout = Layout(*json.loads(first_decides(decide, "how to embed")))
    entry = _open(store, stream, manifest, layout)
    kept = entry.manifest
    layout = layout._replace(batch=kept.per_device_batch, rows_per_shard=kept.rows_per_shard)
    return StoredRows(manifest, ids, layout, store, entry)


def _choose(stream: Stream, n: int, rows_per_shard: int | None) -> Layout:
    batch, why = stream.how.per_device_batch, ""
    first = batch if isinstance(batch, int) else min(stream.batch, _padded(n))
    placement = stream.placement(first, stream.how.params)
    if batch == AUTO:
        choice = stream.fastest(placement, n)
        first, why = min(choice.batch, _padded(n)), choice.why
    shard = default_shard(n, first) if rows_per_shard is None else rows_per_shard
    if shard < 1 or shard % first:
        raise UsageError(f"{shard} rows per shard is not a multiple of the batch of {first} images")
    return Layout(placement, first, shard, why)


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()  # the next power of two


def _open(store: Store, stream: Stream, manifest: Manifest, layout: Layout) -> Entry:
    key = stream.key(manifest, layout.placement)
    assert_same_everywhere("what to embed (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=stream.ids(manifest),
        rows_per_shard=layout.rows_per_shard,
        per_device_batch=layout.batch,
        row_shape=stream.row_shape,
        about={"model": str(stream.model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry


def make(stream: Stream, sets: Sequence[StoredRows]) -> None:
    """Make the missing rows; all processes call this, and wait for each other. Raises if any failed."""
    stored, too_many = any(each.entry for each in sets), 1
    while too_many:
        failure, too_many = None, 0
        try:
            _make_own(stream, sets)
        except OutOfMemoryError as error:
            too_many = error.per_device_batch  # then all begin again with half of it
        except Exception as error:
            failure = error
        if stored:
            _end_together(failure)
            too_many = largest_everywhere(too_many)
        elif failure is not None:
            raise failure
        if too_many:
            _halve(stream, sets, too_many)


def _make_own(stream: Stream, sets: Sequence[StoredRows]) -> None:
    """Make the process's share of the rows."""
    firsts = itertools.accumulate((each.entry.shards if each.entry else 1 for each in sets), initial=0)
    skips = stream.how.on_error == "skip"
    spans = [
        span
        for each, first in zip(sets, firsts)
        for span in each.spans(first, allow_skipped=skips, keep=stream.keeps)
    ]
    for placement, batch in dict.fromkeys(each.layout[:2] for each in sets):
        pending = collections.deque(span for span in spans if span.of.layout[:2] == (placement, batch))
        while pending:
            for rows, array in stream.run(list(pending), batch, placement):
                of, span = pending.popleft()
                of.keep(span, rows, array)
            # The others continue without a stopped data set, in a new stream.
            pending = collections.deque(span for span in pending if span.of.stopped is None)
    for each in sets:
        if each.stopped is not None:
            raise each.stopped


def _halve(stream: Stream, sets: Sequence[StoredRows], too_many: int) -> None:
    def decide() -> str:
        skips = stream.how.on_error == "skip"
        large = [i for i, each in enumerate(sets) if each.layout.batch >= too_many]
        return json.dumps([i for i in large if sets[i].missing(allow_skipped=skips, keep=stream.keeps)])

    # While another run fills the store, processes may see different data sets: the first one decides.
    stored = any(each.entry for each in sets)
    for i in json.loads(first_decides(decide, "with what batch to go on") if stored else decide()):
        sets[i].halve(stream.unit)
        _log.warning(
            "%s: %d images do not fit a device's memory, or the host's: going on with %d",
            sets[i].name,
            too_many,
            sets[i].layout.batch,
        )


def _end_together(failure: Exception | None) -> None:
    """Every process calls this once its shards are stored, or it failed; raises if any did."""
    # This process must not leave, or the others would wait for ever. They store their current shards.
    if failure is not None and jax.process_count() > 1:
        _log.error("%s (waiting for the other processes to store their shards)", failure)
    failed = failed_process(failure)
    if failure is not None:
        raise failure
    if failed is not None:
        raise DataError(f"embedding failed on process {failed}: see its message; run again to resume")
