"""One stream of rows of several data sets through the devices of this process.

Spans are padded to whole batches of one device, not to a whole step, which a small data set would waste. A
row always has the same position and neighbours in its batch, so its bits do not depend on earlier rows, the
number of devices or interruptions.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.manifest import ChangedError, Manifest
from clipjax.data.pixels.batching import pad_rows
from clipjax.embeddings.batch_size import IMAGE_BATCH, BatchChoice
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import Forward, compiled, watched
from clipjax.embeddings.sets import Span, StoredRows
from clipjax.errors import DataError
from clipjax.models.precision import Precision
from clipjax.progress import Bar, progress_bar
from clipjax.storage.remote.buckets import BucketError

T = TypeVar("T")
AHEAD = 2  # steps that threads read at once
IN_FLIGHT = 2  # batches on the devices at once: one computes while the next is handed over


class Batch(NamedTuple):
    """The input of a step, or one device's part of it.

    Attributes:
        inputs: what `Forward.run` takes, B rows; None only if no row could be read.
        read: bool [B], false for padding and for rows that could not be read.
        errors: why these rows could not be read, in order.
    """

    inputs: Any
    read: np.ndarray
    errors: list[DataError]


@dataclasses.dataclass(frozen=True)
class Stream(abc.ABC):
    """Spans of data sets -> batches -> rows; a subclass for each kind of rows.

    Attributes:
        model: the model that runs.
        precision: its precision.
        how: the store, the batch, and what happens with rows that are not usable.
        verb: the progress bar's verb.
        unit: the progress bar's unit.
        nothing: what is refused if no row is usable.
        batch: rows of a device in one step, by default.
        keeps: whether the rows are a run's result, and so held in memory.
    """

    model: Encoder
    precision: Precision
    how: Compute

    verb: ClassVar[str]
    unit: ClassVar[str]
    nothing: ClassVar[str]
    batch: ClassVar[int] = IMAGE_BATCH
    keeps: ClassVar[bool] = True

    @property
    def images(self) -> int:
        """The number of images in a row."""
        return 1

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """The shape of a stored row; None: that of the first one."""
        return None

    def ids(self, manifest: Manifest) -> Sequence[str]:
        """The ids of a data set's rows."""
        return manifest.ids

    @abc.abstractmethod
    def key(self, manifest: Manifest, placement: str) -> dict[str, Any]:
        """Everything that a data set's rows depend on."""

    @abc.abstractmethod
    def forward(self, per_device_batch: int, placement: str) -> Forward:
        """The forward pass, with params on the devices."""

    @abc.abstractmethod
    def batches(self, order: Order) -> Generator[Batch]:
        """The batch of each step."""

    def placement(self, per_device_batch: int, placement: str) -> str:
        """The placement of params, if "auto" may be asked for."""
        return placement

    def fastest(self, placement: str, images: int) -> BatchChoice:
        """The batch of a device, if "auto" is asked for."""
        return BatchChoice(self.batch)

    def inputs(self, batch: Batch, rows: np.ndarray) -> Any:
        """The input of the forward pass; `rows` int [B] are the rows in their data sets, -1 for padding."""
        return batch.inputs

    def unusable(self, order: Order, step: int, read: np.ndarray, array: np.ndarray) -> dict[int, DataError]:
        """Rows [B, ...] of a step that must not be kept, by position."""
        return {}

    def run(
        self, spans: Sequence[Span], per_device_batch: int, placement: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each span's usable rows, and their array [n, ...], in turn.

        Unless unusable rows are skipped, the first one ends the stream, after the spans before it, and sets
        `stopped` of its data set.

        Raises:
            OutOfMemoryError: the batch does not fit a device, or the host.
        """
        if not spans:
            return
        before, forward = compiled.total(), self.forward(per_device_batch, placement)
        order = Order(spans, per_device_batch, forward.batch_size)
        try:
            with contextlib.closing(self.batches(order)) as source, self._bar(spans) as bar:
                for parts in self._steps(forward, order, source, bar):
                    for span, rows, (read, usable, array) in order.whole(*parts):
                        span.of.images += self.images * int(read.sum())
                        yield rows[usable], array[usable]
        finally:
            spans[0].of.compiles += compiled.total() - before

    def _bar(self, spans: Sequence[Span]) -> Bar:
        names = list(dict.fromkeys(span.of.manifest.name for span in spans))
        what = names[0] if len(names) == 1 else f"{len(names)} data sets"
        shown = self.how.progress and jax.process_index() == 0
        total = sum(len(span.rows) for span in spans)
        return progress_bar(total, f"{self.verb} {what}".rstrip(), self.unit, shown=shown)

    def _steps(
        self, forward: Forward, order: Order, source: Iterator[Batch], bar: Bar
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield for each step: the rows [B] that were read, which of them are usable, and the array [B, ...].

        The last step of a stopped stream is cut before the row that stopped it.
        """
        waiting: collections.deque[tuple[int, Batch, Any]] = collections.deque()
        in_flight = 1 if self.model.network is None else IN_FLIGHT  # others are done when they return
        for step in itertools.count():
            account = order.owner(step)
            start = time.perf_counter()
            with watched(order.per_device_batch):
                batch = next(source, None)
            loaded = time.perf_counter()
            if self.model.outside is None:
                account.decode_seconds += loaded - start
            else:
                account.compute_seconds += loaded - start
            if batch is not None:
                with watched(order.per_device_batch):
                    if batch.inputs is None:
                        result = np.zeros((order.batch_size, *(self.row_shape or ())))
                    else:
                        result = forward.run(self.inputs(batch, order.rows(step)))
                        account.forward_passes += self.images > 0
                waiting.append((step, batch, result))
            last = batch is None or (bool(batch.errors) and self.how.on_error == "raise")
            while waiting and (last or len(waiting) >= in_flight):
                parts, stopped = self._finished(order, *waiting.popleft())
                account.compute_seconds += time.perf_counter() - loaded
                bar.update(int(parts[0].sum()))
                yield parts
                if stopped:
                    return
                loaded = time.perf_counter()
            account.compute_seconds += time.perf_counter() - loaded
            if last:
                return

    def _finished(
        self, order: Order, step: int, batch: Batch, result: Any
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], bool]:
        """A step's `parts`, and whether a row stops the stream."""
        with watched(order.per_device_batch):  # asynchronous: errors on the device are raised here
            array = np.asarray(result, np.float32)
        unusable = self.unusable(order, step, batch.read, array)
        usable = batch.read.copy()
        usable[list(unusable)] = False
        errors = order.unread(step, batch) | unusable
        if not errors or self.how.on_error == "skip":
            return (batch.read, usable, array), False
        for position in sorted(errors):
            of = order.owner(step, position)
            of.stopped = of.stopped or errors[position]
        end = min(errors)
        return (batch.read[:end], usable[:end], array[:end]), True


class Order:
    """The order of data sets' rows in the steps of a stream, and the spans that are not whole yet."""

    def __init__(self, spans: Sequence[Span], per_device_batch: int, batch_size: int) -> None:
        self.per_device_batch, self.batch_size = per_device_batch, batch_size
        rows = [pad_rows(np.arange(span.rows.start, span.rows.stop), per_device_batch) for span in spans]
        self._owners, self._rows = [span.of for span in spans], np.concatenate(rows)
        self._ends = np.cumsum([len(part) for part in rows])
        self._left = collections.deque(zip(spans, rows))
        self._parts: list[Sequence[np.ndarray]] = []

    @property
    def steps(self) -> list[np.ndarray]:
        """The rows of each step."""
        return [self.rows(step) for step in range(-(-len(self._rows) // self.batch_size))]

    def parts(self) -> list[tuple[StoredRows, np.ndarray]]:
        """The data sets in turn, each with its rows, int [n]; -1 for padding."""
        spans = zip(self._owners, np.split(self._rows, self._ends[:-1]))
        groups = itertools.groupby(spans, key=lambda span: span[0])
        return [(of, np.concatenate([rows for _, rows in group])) for of, group in groups]

    def rows(self, step: int) -> np.ndarray:
        """A step's rows, each of its own data set; -1 for padding. int [B]"""
        rows = self._rows[step * self.batch_size : (step + 1) * self.batch_size]
        return pad_rows(rows, self.batch_size)

    def owner(self, step: int, position: int = 0) -> StoredRows:
        """The data set that owns a row of a step (past the end: the last row)."""
        row = min(step * self.batch_size + position, len(self._rows) - 1)
        return self._owners[int(np.searchsorted(self._ends, row, side="right"))]

    def unread(self, step: int, batch: Batch) -> dict[int, DataError]:
        """The rows of a step that could not be read, by position."""
        positions = np.flatnonzero((self.rows(step) >= 0) & ~batch.read)
        return dict(zip(positions.tolist(), batch.errors, strict=True))

    def whole(self, *parts: np.ndarray) -> Iterator[tuple[Span, np.ndarray, tuple[np.ndarray, ...]]]:
        """Take a step's arrays [B, ...]; give the spans that are whole now, with their rows and arrays.

        Two spans have 3 rows and 1, and a step has 2: the first step gives no span, the second gives both.
        """
        self._parts.append(parts)
        while self._left and len(self._left[0][1]) <= sum(len(part[0]) for part in self._parts):
            span, rows = self._left.popleft()
            several = len(self._parts) > 1
            arrays = [np.concatenate(column) for column in zip(*self._parts)] if several else self._parts[0]
            rest = tuple(array[len(rows) :] for array in arrays)
            self._parts = [rest] if len(rest[0]) else []
            yield span, rows, tuple(array[: len(rows)] for array in arrays)


def read_ahead(
    load: Callable[[int], T], steps: Sequence[np.ndarray], threads: int | None = None
) -> Generator[list[T | DataError | None]]:
    """Yield the results of `load` for the rows of each step, or its error; None for padding (-1)."""

    def read(row: int) -> T | DataError | None:
        try:
            return None if row < 0 else load(row)
        except (BucketError, ChangedError):  # nothing is wrong with the row
            raise
        except DataError as error:
            return error

    waiting: collections.deque[list[Future[T | DataError | None]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for step in range(len(steps) + AHEAD - 1):
                if step < len(steps):
                    waiting.append([pool.submit(read, row) for row in steps[step].tolist()])
                if step >= AHEAD - 1:
                    yield [future.result() for future in waiting.popleft()]
        finally:
            for future in itertools.chain(*waiting):
                future.cancel()
