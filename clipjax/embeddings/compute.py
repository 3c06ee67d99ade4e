"""How something is computed, which decides no number: stores, batches, devices, processes, bars.

What decides the numbers is a `clipjax.evaluation.subject.Request`.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal

from clipjax.data.pixels.decoders import AUTO, Workers
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.embeddings.params import check_params
from clipjax.errors import UsageError
from clipjax.storage.store import Store

BatchSize = int | Literal["auto"]
ON_ERROR = ("raise", "skip")


@dataclass(frozen=True)
class Compute:
    """How a run computes.

    Attributes:
        store: where embeddings are kept; None keeps none, and of several processes each embeds everything.
        pixel_store: where decoded pixels are kept for the next model; None keeps none.
        per_device_batch: images a device takes in one step, or "auto": what is fastest on such a device,
            tried once (`clipjax.embeddings.batch_size`); None: 64. An entry of the store that exists keeps
            its own number.
        params: "replicated", whole on each device; "sharded", cut over the devices of a process; "auto",
            whole if they fit with that batch (`clipjax.embeddings.params`). An entry that exists keeps its
            own.
        workers: processes that decode; 0 decodes in threads, one a core; "auto" tries once what is fastest
            for such images on this machine (`clipjax.data.pixels.decoders`).
        on_error: "raise" on an unreadable image, or "skip" it and list it in the statistics.
        progress: show bars with the time left on stderr.

    Raises:
        UsageError: a batch below 1, a number of workers below 0, or a name that does not exist.
    """

    store: Store | None = None
    pixel_store: PixelStore | None = None
    per_device_batch: BatchSize | None = None
    params: str = AUTO
    workers: Workers = 0
    on_error: str = "raise"
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


def store_at(place: str | PathLike[str] | Store | None) -> Store | None:
    """The store of embeddings in a folder; a store itself, and None, stay as they are."""
    return Store(place) if isinstance(place, str | PathLike) else place


def pixel_store_at(place: str | PathLike[str] | PixelStore | None) -> PixelStore | None:
    """The store of decoded pixels in a folder; a store itself, and None, stay as they are."""
    return PixelStore(place) if isinstance(place, str | PathLike) else place
