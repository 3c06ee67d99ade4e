"""The rows of a data set: their layout, and the entry of the store or the memory where they go.

The bits may depend on the layout (batch, rows per file, placement of params), so a stored entry keeps its
own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from clipjax.data.manifest import Manifest
from clipjax.devices.agreement import first_writes
from clipjax.embeddings.compute import EmbedStats
from clipjax.errors import DataError
from clipjax.storage.entry import Entry, check_finite
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


class Layout(NamedTuple):
    placement: str
    batch: int
    rows_per_shard: int
    why: str = ""


class Span(NamedTuple):
    """Rows of one data set that a stream writes at once: a shard of its stored entry, or all of them."""

    of: StoredRows
    rows: range


@dataclasses.dataclass(eq=False)
class StoredRows:
    """A data set, where its rows go (an entry of the store, or memory), and what was done for them.

    A step of a stream that several data sets share counts for its first.

    Attributes:
        ids: of all rows, in order.
        rows: ids and array of all usable rows; with an entry, only after `result`.
        stopped: the error of the row that ended the work for this data set.
        decoders: those measured to be the fastest.
    """

    manifest: Manifest
    ids: Sequence[str]
    layout: Layout
    store: Store | None = None
    entry: Entry | None = None
    rows: tuple[list[str], np.ndarray] | None = None
    stopped: DataError | None = None
    forward_passes: int = 0
    images: int = 0
    compiles: int = 0
    decode_seconds: float = 0.0
    compute_seconds: float = 0.0
    decoders: str = ""

    @property
    def key(self) -> str | int:
        """The entry's name, equal for the same images; unique without an entry."""
        return id(self) if self.entry is None else self.entry.key_hash

    @property
    def name(self) -> str:
        return self.manifest.name or "the data set"

    def missing(self, *, allow_skipped: bool, keep: bool) -> list[int]:
        """Numbers of the missing shards; without an entry, one has all rows. `keep`: as for the entry."""
        if self.entry is None:
            return [0] if self.rows is None else []
        return self.entry.missing_shards(allow_skipped=allow_skipped, keep=keep)

    def spans(self, first: int, *, allow_skipped: bool, keep: bool) -> list[Span]:
        """The process's share of the rows still to make.

        Dealt by shard number, not by place in the list, which differs by process while another run fills the
        store. Numbers continue from `first` over data sets: many have one shard.
        """
        missing = self.missing(allow_skipped=allow_skipped, keep=keep)
        if self.entry is None:
            return [Span(self, range(len(self.ids))) for _ in missing]
        mine = [k for k in missing if (first + k) % jax.process_count() == jax.process_index()]
        return [Span(self, self.entry.shard_rows(k)) for k in mine]

    def keep(self, span: range, rows: np.ndarray, array: np.ndarray) -> None:
        """Keep a span's usable rows and their array [n, ...]."""
        ids = [self.ids[int(row)] for row in rows]
        if self.entry is None:
            check_finite(ids, array)
            self.rows = ids, array
            return
        usable = set(rows.tolist())
        skipped = [self.ids[row] for row in span if row not in usable]
        self.entry.write_shard(span.start // self.entry.manifest.rows_per_shard, ids, array, skipped=skipped)

    def halve(self, unit: str) -> None:
        """Halve the batch; all processes call it at the same point. `unit`: of what a batch has.

        Raises DataError if the batch is 1, or rows are stored.
        """
        batch = self.layout.batch
        if batch == 1:
            raise DataError(
                f"{self.name}: not even one {unit} fits a device's memory: end what else uses the device, "
                "cut the params over several (--params sharded), or take fewer bits (--precision fast)"
            )
        half = batch // 2
        shard = half * max(1, self.layout.rows_per_shard // half)
        if self.entry is not None:
            self._lay_out_again(shard, half)
        self.layout = Layout(self.layout.placement, half, shard, "a device's memory holds no more")

    def _lay_out_again(self, rows_per_shard: int, batch: int) -> None:
        store, entry = self.store, self.entry
        assert store is not None
        assert entry is not None

        def write() -> None:  # one process looks: another run may be filling the entry
            if there := entry.shards - len(entry.missing_shards(allow_skipped=True)):
                raise DataError(
                    f"{self.name}: {self.layout.batch} images do not fit a device's memory, but {there} of "
                    f"its {entry.shards} shards are stored in such batches, which an entry keeps: end what "
                    f"else uses the device, or begin anew with --batch-size {batch} in another --store"
                )
            store.lay_out_again(entry, rows_per_shard=rows_per_shard, per_device_batch=batch)

        first_writes(write, f"{entry.path}/key.json")
        self.entry = store.reopen(entry)

    def result(self, *, counted: bool, nothing: str) -> Embeddings:
        """All rows; statistics of reading from a store unless `counted`.

        Raises DataError if no row is usable; `nothing` says so.
        """
        if self.entry is not None:
            self.rows = self.entry.read()
        assert self.rows is not None
        ids, array = self.rows
        if not ids:
            raise DataError(f"{self.name}: {nothing}, all were skipped")
        present = set(ids)
        skipped = tuple(name for name in self.ids if name not in present)
        stats = dataclasses.replace(self.stats(counted=counted), skipped=skipped)
        return Embeddings(ids, array, self.entry and self.entry.key_hash, stats)

    def stats(self, *, counted: bool) -> EmbedStats:
        """Counts of the work so far, without skipped rows."""
        done = (self.forward_passes, self.images, self.compiles, self.decode_seconds, self.compute_seconds)
        return EmbedStats(
            *(done if counted else (0, 0, 0, 0.0, 0.0)),
            skipped=(),
            per_device_batch=self.layout.batch,
            decoders=self.decoders,
            placement=self.layout.placement,
            batch_choice=self.layout.why,
            made_with=tuple(
                (package, version)
                for package, versions in sorted((self.entry.made_with if self.entry else {}).items())
                for version in sorted(versions)
            ),
        )


def default_shard(n: int, batch: int) -> int:
    """Whole batches: about an eighth of the data set, at most SHARD_ROWS (or one larger batch).

    Beyond MANY such shards, each is made larger: at most LARGEST, in steps of SHARD_ROWS, so that shards of
    pixels divide those of embeddings. The layout changes no number, and a stored entry keeps its own.

    default_shard(1000, 64) == 64; default_shard(50_000, 64) == 512; default_shard(50_000, 1024) == 1024;
    default_shard(1_281_167, 64) == 4608; default_shard(10**9, 64) == 16_384
    """
    grown = min(LARGEST, n // MANY) // SHARD_ROWS * SHARD_ROWS
    return batch * max(1, max(min(SHARD_ROWS, n // SHARDS), grown) // batch)
