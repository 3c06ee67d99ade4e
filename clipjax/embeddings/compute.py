"""How a run computes: stores, batches, devices, processes, bars; and what that came to. Loads no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Literal

from clipjax.data.pixels.decoders import AUTO, Workers
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.embeddings.params import REPLICATED, check_params
from clipjax.errors import UsageError
from clipjax.storage.store import Store

BatchSize = int | Literal["auto"]
ON_ERROR = ("raise", "skip")


@dataclass(frozen=True)
class Compute:
    """A `Compute` changes numbers only by rounding, and by skipped images.

    Attributes:
        store: for embeddings; None: keep none, and each of several processes embeds everything.
        pixel_store: for decoded pixels.
        per_device_batch: images on a device in one step; "auto": the fastest, measured once; None: 64, less
            for few images. A stored entry keeps its own.
        params: "replicated" (whole on each device), "sharded" (cut over a process's devices), or "auto":
            whole if that fits. A stored entry keeps its own.
        workers: decoding processes; 0: threads, one per core; "auto": the fastest, measured once.
        on_error: "raise" on an unreadable image, or "skip" and list it.
        keep_maps: of pairs of images, keep the maps of features in the store and match from there, so that
            another matching runs no model.

    Raises:
        UsageError: a batch below 1, negative workers, an unknown name, or `keep_maps` without a store.
    """

    store: Store | None = None
    pixel_store: PixelStore | None = None
    per_device_batch: BatchSize | None = None
    params: str = AUTO
    workers: Workers = 0
    on_error: str = "raise"
    keep_maps: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        batch = self.per_device_batch
        if batch is not None and batch != AUTO and not (isinstance(batch, int) and batch >= 1):
            raise UsageError(f"the batch size must be at least 1, or {AUTO!r}, not {batch!r}")
        if self.workers != AUTO and (not isinstance(self.workers, int) or self.workers < 0):
            raise UsageError(f"the number of workers must be at least 0, or {AUTO!r}, not {self.workers!r}")
        if self.on_error not in ON_ERROR:
            raise UsageError(f"on_error must be 'raise' or 'skip', not {self.on_error!r}")
        check_params(self.params)
        if self.keep_maps and self.store is None:
            raise UsageError("keep_maps keeps maps in the store of embeddings: give one with store")


@dataclass(frozen=True)
class EmbedStats:
    """What this process did for one data set; a step with several counts for its first.

    Attributes:
        forward_passes: batches run; 0 if everything was stored.
        decode_seconds: waiting for pixels.
        compute_seconds: handing over batches and waiting for features.
        skipped: ids of unreadable images, in order.
        per_device_batch: a stored entry's own, not the requested one.
        decoders: the measured choice in words; "" for the default.
        batch_choice: why this batch, in words, if a measurement or the memory decided.
        made_with: (package, version) of JAX that made stored rows.
    """

    forward_passes: int
    images: int
    compiles: int
    decode_seconds: float
    compute_seconds: float
    skipped: tuple[str, ...]
    per_device_batch: int
    decoders: str = ""
    params: str = REPLICATED
    batch_choice: str = ""
    made_with: tuple[tuple[str, str], ...] = ()

    def plus(self, other: EmbedStats) -> EmbedStats:
        names = ("forward_passes", "images", "compiles", "decode_seconds", "compute_seconds")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        words = {name: getattr(self, name) or getattr(other, name) for name in ("decoders", "batch_choice")}
        made_with = tuple(sorted({*self.made_with, *other.made_with}))
        return dataclasses.replace(self, **sums, **words, made_with=made_with)


def share_waiting(stats: Iterable[EmbedStats]) -> float | None:
    """The share of embedding time spent waiting for pixels; None: nothing embedded."""
    stats = list(stats)
    waited = sum(each.decode_seconds for each in stats)
    total = waited + sum(each.compute_seconds for each in stats)
    return waited / total if any(each.images for each in stats) and total > 0 else None


def store_at(place: str | PathLike[str] | Store | None) -> Store | None:
    """The store of embeddings in a folder; a store or None is returned unchanged."""
    return Store(place) if isinstance(place, str | PathLike) else place


def pixel_store_at(place: str | PathLike[str] | PixelStore | None) -> PixelStore | None:
    """As `store_at`, for decoded pixels."""
    return PixelStore(place) if isinstance(place, str | PathLike) else place
