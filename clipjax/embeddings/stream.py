"""One stream of images from several data sets through the devices of this process.

Spans are padded to whole batches of one device, not to a whole step, which a small data set would waste. A
row always has the same position and neighbours in its batch, so its bits do not depend on earlier rows, the
number of devices or interruptions.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.corrupted.opener import is_corrupted, source_of
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.batching import Batches, Skipped, pad_rows
from clipjax.data.pixels.decoders import AUTO, Decoders, Workers, choose
from clipjax.data.pixels.joined import joined
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.batch_size import IMAGE_BATCH, Choice
from clipjax.embeddings.batch_size import choose as choose_batch
from clipjax.embeddings.forward import Forward, choose_params, image_forward, watched
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.outside import answered
from clipjax.errors import DataError
from clipjax.models.precision import Precision
from clipjax.progress import Bar, progress_bar

IN_FLIGHT = 2  # batches on the devices at once: one computes while the next is handed over


@dataclasses.dataclass(eq=False)
class Passenger:
    """What was done for a data set in a stream; a shared step counts for its first."""

    manifest: Manifest
    forward_passes: int = 0
    images: int = 0
    compiles: int = 0
    decode_seconds: float = 0.0
    compute_seconds: float = 0.0
    decoders: str = ""  # those measured to be the fastest


class Span(NamedTuple):
    of: Passenger
    rows: range


class UnreadableError(Exception):
    """Data sets stopped by an unreadable image, with their first errors."""

    def __init__(self, errors: dict[Passenger, DataError]) -> None:
        super().__init__(*errors.values())
        self.errors = errors


class _Pixels(NamedTuple):
    """Input of a step or of one device: uint8 [B, S, S, 3], or already the features of a model that runs
    outside; `read` is bool [B], false for padding and `skipped`.
    """

    pixels: np.ndarray
    read: np.ndarray
    skipped: list[Skipped]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Images through the image tower; a subclass has another forward pass, and its own key."""

    model: Encoder
    recipe: PixelRecipe
    pixel_store: PixelStore | None
    precision: Precision
    output: str
    workers: Workers
    progress: bool
    on_error: str

    verb: ClassVar[str] = "embedding"
    batch: ClassVar[int] = IMAGE_BATCH  # of a device, by default

    def key(self, manifest: Manifest, params: str) -> dict[str, Any]:
        """Everything that a data set's rows depend on."""
        return image_key(self.model.card, manifest, self.recipe, self.precision, self.output, params)

    def placement(self, per_device_batch: int, params: str) -> str:
        """As `choose_params`."""
        return choose_params(self.model, self.precision, self.output, per_device_batch, params)

    def fastest(self, params: str, images: int) -> Choice:
        """As `batch_size.choose`."""
        return choose_batch(self.model, self.precision, self.output, params, images, progress=self.progress)

    def forward(self, per_device_batch: int, params: str) -> Forward:
        return image_forward(self.model, self.precision, self.output, per_device_batch, params)

    def step(self, forward: Forward, pixels: np.ndarray, rows: np.ndarray) -> Any:
        """Run one batch; `rows` int [B] of its data set, -1 for padding."""
        return forward.run(pixels)

    def run(
        self, spans: Sequence[Span], per_device_batch: int, params: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each span's readable rows, and their features [n, D], in turn.

        Raises:
            UnreadableError: an image is unreadable and not to be skipped; after the spans before it.
            OutOfMemoryError: the batch does not fit a device.
        """
        if not spans:
            return
        forward = self.forward(per_device_batch, params)
        rows = [pad_rows(np.arange(span.rows.start, span.rows.stop), per_device_batch) for span in spans]
        order = _Order([span.of for span in spans], rows, forward.batch_size)
        how = self._how_to_decode(order)
        try:
            with (
                contextlib.closing(self._pixels(order, per_device_batch, how)) as pixels,
                self._bar(spans) as bar,
            ):
                steps = self._features(forward, per_device_batch, pixels, order, bar)
                pieces = _cut(steps, [len(part) for part in rows])
                for span, part, (read, features) in zip(spans, rows, pieces):
                    span.of.images += int(read.sum())
                    yield part[read], features[read]
        finally:
            spans[0].of.compiles += forward.compiles()

    def _bar(self, spans: Sequence[Span]) -> Bar:
        names = list(dict.fromkeys(span.of.manifest.name for span in spans))
        what = names[0] if len(names) == 1 else f"{len(names)} data sets"
        shown = self.progress and jax.process_index() == 0
        total = sum(len(span.rows) for span in spans)
        return progress_bar(total, f"{self.verb} {what}".rstrip(), "image", shown=shown)

    def _how_to_decode(self, order: _Order) -> dict[str, Any]:
        if self.model.outside is not None:
            return {}
        if self.workers != AUTO:
            return {"workers": self.workers, "on_error": "skip"}
        whole, rows = order.joined()
        shown = self.progress and jax.process_index() == 0
        chosen = choose(whole, self.recipe, rows, progress=shown)
        for of, _ in order.parts():
            of.decoders = "" if chosen == Decoders() else str(chosen)
        return {"workers": chosen.workers, "threads": chosen.threads, "on_error": "skip"}

    def _pixels(self, order: _Order, per_device_batch: int, how: dict[str, Any]) -> Generator[_Pixels]:
        parts, size = order.parts(), order.batch_size
        if self.model.outside is not None:
            for of, rows in parts:
                for each in answered(self.model.outside, of.manifest, self.recipe, rows, size):
                    yield _Pixels(*each)
            return
        if self.pixel_store is not None or any(is_corrupted(of.manifest) for of, _ in parts):
            piece = size if len(parts) == 1 else per_device_batch
            with contextlib.closing(self._apart(parts, batch_size=piece, **how)) as pieces:
                yield from _stacked(pieces, size // piece)
            return
        whole, rows = order.joined()
        yield from _taken(batches(whole, self.recipe, batch_size=size, rows=rows, **how))

    def _apart(self, parts: Sequence[tuple[Passenger, np.ndarray]], **how: Any) -> Generator[_Pixels]:
        read = batches if self.pixel_store is None else self.pixel_store.batches
        for of, rows in parts:
            yield from _taken(read(of.manifest, self.recipe, rows=rows, **how))

    def _features(
        self, forward: Forward, per_device_batch: int, source: Iterator[_Pixels], order: _Order, bar: Bar
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each step: which rows [B] were read, and features [B, D]."""
        waiting: collections.deque[tuple[np.ndarray, Any]] = collections.deque()
        finished = itertools.count(1)
        in_flight = 1 if self.model.network is None else IN_FLIGHT  # others are done when they return
        for step in itertools.count():
            account = order.first(step)
            start = time.perf_counter()
            batch = next(source, None)
            loaded = time.perf_counter()
            if self.model.outside is None:
                account.decode_seconds += loaded - start
            else:
                account.compute_seconds += loaded - start
            errors = {} if batch is None or self.on_error == "skip" else order.errors(step, batch)
            if batch is not None and not errors:
                with watched(per_device_batch):
                    waiting.append((batch.read, self.step(forward, batch.pixels, order.rows(step))))
                account.forward_passes += 1
            last = batch is None or bool(errors)
            while waiting and (last or len(waiting) >= in_flight):
                read, features = waiting.popleft()
                with watched(per_device_batch):  # asynchronous: errors on the device are raised here
                    done = read, np.asarray(features, np.float32)
                self._check_own(done[1][read], next(finished))
                account.compute_seconds += time.perf_counter() - loaded
                bar.update(int(read.sum()))
                yield done
                loaded = time.perf_counter()
            account.compute_seconds += time.perf_counter() - loaded
            if errors:
                raise UnreadableError(errors)
            if last:
                return

    def _check_own(self, features: np.ndarray, batch: int) -> None:
        """Name a user's own model and the batch; of clipjax's networks the entry names the image."""
        if self.model.network is None and not np.isfinite(features).all():
            raise DataError(
                f"encode_image of {self.model} made numbers that are not finite in batch {batch}: what was "
                "stored before stays"
            )


class _Order:
    """Which row of which data set is where in the stream; `rows` int [n] per span, -1 for padding."""

    def __init__(self, owners: Sequence[Passenger], rows: Sequence[np.ndarray], batch_size: int) -> None:
        self._owners, self._rows, self.batch_size = owners, np.concatenate(rows), batch_size
        self._ends = np.cumsum([len(part) for part in rows])

    def parts(self) -> list[tuple[Passenger, np.ndarray]]:
        spans = zip(self._owners, np.split(self._rows, self._ends[:-1]))
        groups = itertools.groupby(spans, key=lambda span: span[0])
        return [(of, np.concatenate([rows for _, rows in group])) for of, group in groups]

    def joined(self) -> tuple[Manifest, np.ndarray]:
        """Images as they are before a corruption."""
        rows, start = [], 0
        for of, part in self.parts():
            # Rows of the joined manifest.
            rows.append(np.where(part < 0, part, part + start))
            start += len(of.manifest)
        return joined([source_of(of.manifest) for of, _ in self.parts()]), np.concatenate(rows)

    def rows(self, step: int) -> np.ndarray:
        """A step's rows, each of its own data set; -1 for padding. int [B]"""
        rows = self._rows[step * self.batch_size : (step + 1) * self.batch_size]
        return pad_rows(rows, self.batch_size)

    def first(self, step: int) -> Passenger:
        """The data set that owns the step's first row (past the end: the last row)."""
        return self._owner(min(step * self.batch_size, len(self._rows) - 1))

    def errors(self, step: int, batch: _Pixels) -> dict[Passenger, DataError]:
        """Data sets with an unreadable image in a step, each with its first error."""
        start = step * self.batch_size
        rows = self._rows[start : start + self.batch_size]
        lost = np.flatnonzero((rows >= 0) & ~batch.read[: len(rows)])
        errors: dict[Passenger, DataError] = {}
        for row, skipped in zip(lost, batch.skipped, strict=True):
            errors.setdefault(self._owner(start + int(row)), skipped.error())
        return errors

    def _owner(self, row: int) -> Passenger:
        return self._owners[int(np.searchsorted(self._ends, row, side="right"))]


def _taken(source: Batches) -> Generator[_Pixels]:
    with source:
        for batch in source:
            skipped, source.skipped = source.skipped, []
            yield _Pixels(batch["pixels"], batch["row"] >= 0, skipped)


def _stacked(pieces: Iterator[_Pixels], count: int) -> Iterator[_Pixels]:
    while group := list(itertools.islice(pieces, count)):
        if count == 1:
            yield group[0]
            continue
        nothing = _Pixels(np.zeros_like(group[0].pixels), np.zeros_like(group[0].read), [])
        group += [nothing] * (count - len(group))
        pixels, read = (np.concatenate(column) for column in list(zip(*group))[:2])
        yield _Pixels(pixels, read, [skipped for piece in group for skipped in piece.skipped])


def _cut(
    stream: Iterator[tuple[np.ndarray, np.ndarray]], lengths: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup pairs of arrays: steps of rows [0, 1], [2, 3] in lengths 3 and 1 -> [0, 1, 2], [3]."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for length in lengths:
        while sum(len(read) for read, _ in parts) < length:
            parts.append(next(stream))
        read, features = (np.concatenate(column) for column in zip(*parts))
        yield read[:length], features[:length]
        parts = [(read[length:], features[length:])]
