"""A data set to embed: its layout, and where its embeddings go.

The bits may depend on the layout (batch, rows per file, placement of params), so a stored entry keeps its
own.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.decoders import AUTO
from clipjax.devices.agreement import assert_same_everywhere, first_decides, first_writes
from clipjax.embeddings.compute import BatchSize, EmbedStats
from clipjax.embeddings.params import placements
from clipjax.embeddings.stream import Passenger, Span, Stream
from clipjax.errors import DataError, UsageError
from clipjax.storage.entry import Entry, check_finite, key_hash
from clipjax.storage.store import Store

SHARD_ROWS = 512  # as many as a killed run loses; 1 MB for embeddings of 512 numbers
MANY = 256  # shards from which on they grow instead
LARGEST = 16_384  # rows: 64 MB for embeddings of 1024 numbers
SHARDS = 8  # at least, if there are as many batches: a small data set can be resumed too


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """ids [N], array float32 [N, D] in manifest order; `key_hash` names the entry (None: not stored)."""

    ids: list[str]
    array: np.ndarray
    key_hash: str | None
    stats: EmbedStats


class LayoutChoice(NamedTuple):
    """The requested layout; None: decided by the data set's size."""

    per_device_batch: BatchSize | None
    rows_per_shard: int | None
    params: str


class Layout(NamedTuple):
    params: str
    batch: int
    rows_per_shard: int
    why: str = ""


@dataclasses.dataclass(eq=False)
class DataSet(Passenger):
    """A data set and where its embeddings go: an entry of the store, or memory.

    Attributes:
        name: the entry's, equal for the same images; unique without an entry.
        rows: ids and embeddings of all readable rows; with an entry, only after `result`.
    """

    layout: Layout = dataclasses.field(kw_only=True)
    store: Store | None = None
    entry: Entry | None = None
    rows: tuple[list[str], np.ndarray] | None = None

    @property
    def name(self) -> str | int:
        return id(self) if self.entry is None else self.entry.key_hash

    def missing(self, allow_skipped: bool) -> list[int]:
        """Numbers of the missing shards; without an entry, one has all rows."""
        if self.entry is None:
            return [0] if self.rows is None else []
        return self.entry.missing_shards(allow_skipped=allow_skipped, keep=True)

    def spans(self, first: int, allow_skipped: bool) -> list[Span]:
        """This process's share of the rows still to embed.

        Dealt by shard number, not by place in the list, which differs by process while another run fills the
        store. Numbers continue from `first` over data sets: many have one shard.
        """
        missing = self.missing(allow_skipped)
        if self.entry is None:
            return [Span(self, range(len(self.manifest))) for _ in missing]
        mine = [k for k in missing if (first + k) % jax.process_count() == jax.process_index()]
        return [Span(self, self.entry.shard_rows(k)) for k in mine]

    def keep(self, span: range, rows: np.ndarray, features: np.ndarray) -> None:
        """Keep a span's readable rows and their features [n, D]."""
        ids = [self.manifest.ids[row] for row in rows]
        if self.entry is None:
            check_finite(ids, features)
            self.rows = ids, features
            return
        read = set(rows.tolist())
        skipped = [self.manifest.ids[row] for row in span if row not in read]
        self.entry.write_shard(
            span.start // self.entry.manifest.rows_per_shard, ids, features, skipped=skipped
        )

    def halve(self) -> None:
        """Halve the batch; all processes call it at the same point.

        Raises DataError if the batch is 1, or rows are stored.
        """
        batch, name = self.layout.batch, self.manifest.name or "the data set"
        if batch == 1:
            raise DataError(
                f"{name}: not even one image fits a device's memory: end what else uses the device, cut the "
                "params over several (--params sharded), or take fewer bits (--precision fast)"
            )
        half = batch // 2
        shard = half * max(1, self.layout.rows_per_shard // half)
        if self.entry is not None:
            self._lay_out_again(shard, half)
        self.layout = Layout(self.layout.params, half, shard, "a device's memory holds no more")

    def _lay_out_again(self, rows_per_shard: int, batch: int) -> None:
        store, entry = self.store, self.entry
        assert store is not None
        assert entry is not None

        def write() -> None:  # one process looks: another run may be filling the entry
            if there := entry.shards - len(entry.missing_shards(allow_skipped=True)):
                name = self.manifest.name or "the data set"
                raise DataError(
                    f"{name}: {self.layout.batch} images do not fit a device's memory, but {there} of its "
                    f"{entry.shards} shards are stored in such batches, which an entry keeps: end what "
                    f"else uses the device, or begin anew with --batch-size {batch} in another --store"
                )
            store.lay_out_again(entry, rows_per_shard=rows_per_shard, per_device_batch=batch)

        first_writes(write, f"{entry.path}/key.json")
        self.entry = store.reopen(entry)

    def result(self, counted: bool) -> Embeddings:
        """All rows; statistics of reading from a store unless `counted`.

        Raises DataError if no image could be read.
        """
        if self.entry is not None:
            self.rows = self.entry.read()
        assert self.rows is not None
        ids, array = self.rows
        if not ids:
            name = self.manifest.name or "the data set"
            raise DataError(f"{name}: no image could be read, all were skipped")
        present = set(ids)
        skipped = tuple(name for name in self.manifest.ids if name not in present)
        done = (self.forward_passes, self.images, self.compiles, self.decode_seconds, self.compute_seconds)
        layout = self.layout
        stats = EmbedStats(
            *(done if counted else (0, 0, 0, 0.0, 0.0)),
            skipped=skipped,
            per_device_batch=layout.batch,
            decoders=self.decoders,
            params=layout.params,
            batch_choice=layout.why,
            made_with=tuple(
                (package, version)
                for package, versions in sorted((self.entry.made_with if self.entry else {}).items())
                for version in sorted(versions)
            ),
        )
        return Embeddings(ids, array, self.entry and self.entry.key_hash, stats)


def data_set(stream: Stream, manifest: Manifest, store: Store | None, choice: LayoutChoice) -> DataSet:
    """The data set with its layout and any stored entry; all processes call this, and agree.

    Raises:
        UsageError: the rows of a shard are not a multiple of the batch.
        DataError: the processes embed different things, or do not share the store.
    """
    if store is None:
        return DataSet(manifest, layout=_choose(stream, manifest, choice))

    def key(params: str) -> dict[str, Any]:
        return stream.key(manifest, params)

    def decide() -> str:
        for params in placements(choice.params):
            if (kept := store.find(key(params))) is not None:
                return json.dumps(Layout(params, kept.per_device_batch, kept.rows_per_shard))
        return json.dumps(_choose(stream, manifest, choice))

    layout = Layout(*json.loads(first_decides(decide, "how to embed")))
    entry = _open(store, key(layout.params), stream.model, manifest, layout)
    kept = entry.manifest
    layout = layout._replace(batch=kept.per_device_batch, rows_per_shard=kept.rows_per_shard)
    return DataSet(manifest, layout=layout, store=store, entry=entry)


def _choose(stream: Stream, manifest: Manifest, choice: LayoutChoice) -> Layout:
    n, batch, why = len(manifest), choice.per_device_batch, ""
    first = batch if isinstance(batch, int) else min(stream.batch, _padded(n))
    params = stream.placement(first, choice.params)
    if batch == AUTO:
        chosen = stream.fastest(params, n)
        first, why = min(chosen.batch, _padded(n)), chosen.why
    shard = default_shard(n, first) if choice.rows_per_shard is None else choice.rows_per_shard
    if shard < 1 or shard % first:
        raise UsageError(f"{shard} rows per shard is not a multiple of the batch of {first} images")
    return Layout(params, first, shard, why)


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()  # the next power of two


def default_shard(n: int, batch: int) -> int:
    """Whole batches: about an eighth of the data set, at most SHARD_ROWS (or one larger batch).

    Of more than MANY such shards each grows, to at most LARGEST, in steps of SHARD_ROWS: shards of pixels
    divide those of embeddings. The layout changes no number, and a stored entry keeps its own.

    default_shard(1000, 64) == 64; default_shard(50_000, 64) == 512; default_shard(50_000, 1024) == 1024;
    default_shard(1_281_167, 64) == 4608; default_shard(10**9, 64) == 16_384
    """
    grown = min(LARGEST, n // MANY) // SHARD_ROWS * SHARD_ROWS
    return batch * max(1, max(min(SHARD_ROWS, n // SHARDS), grown) // batch)


def _open(store: Store, key: dict[str, Any], model: Encoder, manifest: Manifest, layout: Layout) -> Entry:
    assert_same_everywhere("what to embed (the hash of model, data set and settings)", key_hash(key))
    entry = store.entry(
        key,
        ids=manifest.ids,
        rows_per_shard=layout.rows_per_shard,
        per_device_batch=layout.batch,
        about={"model": str(model.card.id), "data": manifest.name, "selection": manifest.selection},
    )
    assert_same_everywhere(f"the store {store.root} (one directory that all hosts see)", entry.manifest.nonce)
    return entry
