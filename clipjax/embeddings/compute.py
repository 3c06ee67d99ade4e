"""Options of computing (stores, batches, devices, processes, bars) and counts of work. Loads no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clipjax.errors import UsageError
from clipjax.options import AUTO, check_fields, option

if TYPE_CHECKING:
    from clipjax.data.pixels.decoders import Workers
    from clipjax.data.pixels.pixel_store import PixelStore
    from clipjax.storage.store import Store

BatchSize = int | Literal["auto"]
REPLICATED, SHARDED = "replicated", "sharded"


@dataclass(frozen=True)
class Compute:
    """The options that change numbers only by rounding, and by skipped images.

    A stored entry keeps the batch and the placement of params that it was made with. Without a store, each of
    several processes embeds everything.

    Raises UsageError for a number outside its limits, a value that is not one of an option's choices, or
    `keep_maps` without a store.
    """

    store: Store | None = option(
        None, "A folder for embeddings; None keeps none.", accepts="str | Path | Store | None"
    )
    pixel_store: PixelStore | None = option(
        None,
        "A folder for decoded pixels, shared by models with one pixel recipe; None keeps none.",
        accepts="str | Path | PixelStore | None",
    )
    per_device_batch: BatchSize | None = option(
        None,
        "Images per device and step; part of the store's layout. auto: the fastest here, measured once.",
        python="None: 64, less for few images.",
        kind=int,
        name="batch_size",
        minimum=1,
        maximum=65_536,
        bound="the batch size must be at least 1 and at most 65536, or 'auto'",
        auto=True,
        of="images",
        panel="Speed and storage",
    )
    workers: Workers = option(
        0,
        "Decoding processes. 0: threads of this process; auto: the fastest here, measured once.",
        python="A task of pairs uses neither this nor `per_device_batch` and `pixel_store`.",
        kind=int,
        minimum=0,
        bound="the number of workers must be at least 0, or 'auto'",
        auto=True,
        of="processes",
        panel="Speed and storage",
        in_suites=False,
    )
    params: str = option(
        AUTO,
        "Where parameters are: whole on each device (replicated), split over a process's devices (sharded), "
        "or as memory allows (auto).",
        kind=str,
        choices=(AUTO, REPLICATED, SHARDED),
        called="placement of params",
        panel="Speed and storage",
    )
    on_error: str = option(
        "raise",
        "What to do with an unreadable image: raise, or skip (it is named and counted).",
        kind=str,
        choices=("raise", "skip"),
        bound="on_error must be 'raise' or 'skip'",
        panel="Measurement",
    )
    keep_maps: bool = option(
        False,
        "Keep the maps of features of pairs of images in the store, some MB per pair, so that another "
        "matching runs no model.",
        python="Tasks of single images have none.",
        kind=bool,
        panel="Pairs of images",
        in_suites=False,
    )
    progress: bool = option(True, "Whether bars are shown.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.keep_maps and self.store is None:
            raise UsageError("keep_maps keeps maps in the store of embeddings: give one with store")


@dataclass(frozen=True)
class EmbedStats:
    """Counts of this process's work for one data set. A step over several data sets counts for the first.

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
    placement: str = REPLICATED
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
