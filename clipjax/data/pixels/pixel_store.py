"""Stored pixels: an image is decoded once for all models that share a pixel recipe.

A data set's uint8 pixels are an entry of a `clipjax.storage.store.Store`; a changed image makes another.

- A shard has a power of two rows: whole shards of pixels then make a shard of embeddings.
- Shards leave out unreadable images, which a reader decodes again: the problem may be gone.
- Without room, a run logs a warning and keeps nothing. Only a data set larger than the budget is refused.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Generator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import PIL
import PIL.features

from clipjax.data.corrupted.batches import software
from clipjax.data.corrupted.opener import is_corrupted
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.batching import Batches, check_options, pad_rows
from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.preprocess import PIXELS_VERSION, PixelRecipe
from clipjax.errors import DataError, UsageError
from clipjax.storage.entry import Entry
from clipjax.storage.store import EntryInfo, Store

if TYPE_CHECKING:
    import grain

KIND = "pixels"
BUDGET = 100 * 10**9  # bytes over all entries: ImageNet's validation images at 224 pixels take 7.5 GB
# At most (128 images of 224 pixels, a power of two): a shard is read whole for its checksum.
SHARD_BYTES = 32 * 10**6
SHARD_ROWS = 512  # at most, for small images; as in a shard of embeddings
SHARDS = 8  # at least, unless the data set is tiny
SPARE_BYTES = 10**9  # kept free on the disk for embeddings and results
READERS = 4  # at most this many shards are read ahead
_DECODED = 64  # images per batch of the decoders

_log = logging.getLogger(__name__)

# Row -> its pixels uint8 [S,S,3], or the reason why the image cannot be read.
_Shard = dict[int, np.ndarray | str]


def pixel_key(manifest: Manifest, recipe: PixelRecipe) -> dict[str, Any]:
    """Everything that decoded pixels depend on. Pillow's wheels bring all decoders; a distribution's may use
    another libjpeg.
    """
    decoder = {"pillow": PIL.__version__, "libjpeg_turbo": PIL.features.version("libjpeg_turbo")}
    made_by = {"transform": PIXELS_VERSION, "decoder": decoder}
    if is_corrupted(manifest):
        made_by |= {"corrupted_by": software()}
    return {"kind": KIND, "pixels": recipe.key(), **made_by, "data": manifest.images_digest}


@dataclasses.dataclass(frozen=True)
class PixelStore:
    """A folder of decoded pixels.

    Attributes:
        root: folder or bucket URL. Hosts need not share it.
        budget: bytes. The longest unused entries are removed to make room, except those being read.
    """

    root: str | os.PathLike[str]
    budget: int = BUDGET

    def batches(
        self,
        manifest: Manifest,
        recipe: PixelRecipe,
        *,
        batch_size: int,
        rows: Sequence[int] | np.ndarray | None = None,
        workers: int = 0,
        threads: int | None = None,
        on_error: str = "raise",
    ) -> Batches:
        """`clipjax.data.pixels.loader.batches`, byte for byte; missing shards are decoded and stored whole.

        Raises:
            UsageError: this data set's pixels alone exceed the budget; wrong options.
            DataError: the store cannot be created or is damaged; on iteration, an unreadable image.
            ValueError: rows that do not ascend (padding aside): each shard is read once.
        """
        check_options(batch_size, workers, threads, on_error)
        asked = pad_rows(np.arange(len(manifest)) if rows is None else np.asarray(rows), batch_size)
        wanted = asked[asked >= 0]
        if (np.diff(wanted) <= 0).any():
            raise ValueError("rows of stored pixels must ascend")
        decoder = _Decoder(manifest, recipe, workers, threads)
        entry, hold = self._open(manifest, recipe)
        reader = _Reader(entry, hold, decoder, asked.reshape(-1, batch_size))
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(reader.close)
            reader.keep = not reader.absent or self._has_room(entry, len(reader.absent), manifest, recipe)
            unfinished.pop_all()
        return Batches(_ahead(reader), manifest.ids, on_error == "skip")

    def _open(self, manifest: Manifest, recipe: PixelRecipe) -> tuple[Entry, IO[bytes]]:
        """The file protects the entry from removal."""
        size = len(manifest) * _row_bytes(recipe)
        if size > self.budget:
            raise UsageError(
                f"the pixels of {manifest.name or 'the data set'} ({len(manifest)} images of "
                f"{recipe.image_size} pixels) take {_size(size)}, and the pixel store may take "
                f"{_size(self.budget)}: give it more (--pixel-budget), or leave it out"
            )
        about = {"data": manifest.name, "selection": manifest.selection, "pixels": in_words(recipe)}
        while True:
            with contextlib.suppress(FileNotFoundError):  # another run removed it just now: try again
                entry = Store(self.root).entry(
                    pixel_key(manifest, recipe),
                    ids=manifest.ids,
                    rows_per_shard=_rows_per_shard(len(manifest), recipe),
                    per_device_batch=1,
                    row_shape=(recipe.image_size, recipe.image_size, 3),
                    dtype="uint8",
                    about=about,
                )
                return entry, entry.hold()

    def _has_room(self, entry: Entry, absent: int, manifest: Manifest, recipe: PixelRecipe) -> bool:
        """Return whether `absent` more shards fit; remove unused entries as needed."""
        store, size = Store(self.root), len(manifest) * _row_bytes(recipe)
        others = [info for info in store.ls() if info.key.get("kind") == KIND and info.name != entry.key_hash]
        taken = sum(map(_full_bytes, others))
        for info in reversed(others):  # the longest unused come first
            if taken + size > self.budget and store.remove(info.name):
                taken -= _full_bytes(info)
        more = min(size, absent * entry.manifest.rows_per_shard * _row_bytes(recipe))
        free = more if store.on_bucket else shutil.disk_usage(store.root).free - SPARE_BYTES
        lack = None
        if taken + size > self.budget:
            lack = f"other runs read {_size(taken)} of the {_size(self.budget)} that it may take"
        elif more > free:
            lack = f"the disk has {_size(max(0, free))} to spare"
        if lack is not None:
            _log.warning(
                "%s: %s more pixels of %s find no room (%s): they are decoded and not kept",
                *(store.root, _size(more), manifest.name or "the data set", lack),
            )
        return lack is None


def pixel_store_at(folder: str | os.PathLike[str] | PixelStore | None) -> PixelStore | None:
    """The pixel store in a folder; a pixel store or None is returned unchanged."""
    return PixelStore(folder) if isinstance(folder, str | os.PathLike) else folder


def _row_bytes(recipe: PixelRecipe) -> int:
    return 3 * recipe.image_size**2


def _full_bytes(info: EntryInfo) -> int:
    return info.rows * 3 * info.key["pixels"]["image_size"] ** 2


def _rows_per_shard(n: int, recipe: PixelRecipe) -> int:
    most = min(SHARD_BYTES // _row_bytes(recipe), SHARD_ROWS, n // SHARDS)
    # The largest power of two up to `most`.
    return 1 << max(0, most.bit_length() - 1)


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


_RESIZED = {
    "shortest": "short side",
    "longest": "long side",
    "squash": "both sides",
    "letterbox": "a padded square's side",
}


def in_words(recipe: PixelRecipe) -> str:
    resize = _RESIZED[recipe.resize_mode]
    parts = [f"{recipe.image_size} px", f"{resize} {recipe.resize_size}", recipe.interpolation]
    parts += [f"RGB {recipe.rgb}"]
    parts += [f"border {recipe.pre_crop} cut"] if recipe.pre_crop else []
    parts += [f"crop {recipe.crop}"] if recipe.crop != "round" else []
    parts += ["JPEGs decoded smaller"] if recipe.decode == "jpeg_scaled" else []
    return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class _Decoder:
    manifest: Manifest
    recipe: PixelRecipe
    workers: int
    threads: int | None

    def decode(self, rows: Sequence[int], *, workers: int | None = None) -> Generator[tuple[int, Any]]:
        """(row, pixels or why it cannot be read), in order."""
        source = batches(
            self.manifest,
            self.recipe,
            batch_size=_DECODED,
            rows=rows,
            workers=self.workers if workers is None else workers,
            threads=self.threads,
            on_error="skip",
        )
        with source:
            for start, batch in zip(range(0, len(rows), _DECODED), source):
                reasons = {skipped.row: skipped.reason for skipped in source.skipped}
                source.skipped.clear()
                for row, decoded, pixels in zip(
                    rows[start : start + _DECODED], batch["row"], batch["pixels"]
                ):
                    yield row, pixels if decoded == row else reasons[row]


def _ahead(reader: _Reader) -> grain.IterDataset[dict[str, Any]]:
    """The batches of `reader`, read ahead by a thread. Can be iterated once."""
    import grain  # loaded late: a run whose embeddings are stored reads no pixels

    class Iterator(grain.DatasetIterator[dict[str, Any]]):
        def __next__(self) -> dict[str, Any]:
            return next(reader)

        def close(self) -> None:
            super().close()
            reader.close()

        def get_state(self) -> dict[str, Any]:
            return {}

        def set_state(self, state: dict[str, Any]) -> None:
            raise NotImplementedError("a reader of stored pixels starts at its first row")

    class Once(grain.IterDataset[dict[str, Any]]):
        def __iter__(self) -> Iterator:
            return Iterator()

    return grain.experimental.ThreadPrefetchIterDataset(Once(), prefetch_buffer_size=2)


class _Reader:
    """Batches from shards that are read, or decoded and stored if `keep`.

    Memory holds at most READERS shards being read, one being decoded and one being written.
    """

    def __init__(self, entry: Entry, hold: IO[bytes], decoder: _Decoder, rows: np.ndarray):
        """`rows`: int [batches, B], ascending; -1 is padding."""
        self._entry, self._hold, self._decoder = entry, hold, decoder
        self._batches = iter(rows)
        needed = np.unique(rows[rows >= 0] // entry.manifest.rows_per_shard).tolist()
        self.keep = True
        self.absent = [k for k in needed if not entry.shard_path(k).exists()]
        self._decoded = decoder.decode([row for k in self.absent for row in entry.shard_rows(k)])
        self._to_read = collections.deque(k for k in needed if k not in set(self.absent))
        self._readers = min(READERS, max(1, decoder.threads or os.cpu_count() or 1))
        self._pool = concurrent.futures.ThreadPoolExecutor(self._readers + 1)  # the extra one writes
        self._reading: collections.deque[tuple[int, concurrent.futures.Future[_Shard]]] = collections.deque()
        self._writing: concurrent.futures.Future[None] | None = None
        self._filling: dict[int, _Shard] = {}  # shards still being decoded
        self._current: tuple[int, _Shard] = (-1, {})

    def __next__(self) -> dict[str, Any]:
        rows = next(self._batches, None)
        if rows is None:
            while self._filling:  # complete the last shard beyond the rows asked for
                self._take_decoded()
            self._wait_for_writing()
            raise StopIteration
        pixels = np.zeros((len(rows), *(self._entry.manifest.row_shape or ())), np.uint8)
        batch_rows, failed = np.full(len(rows), -1, np.int32), []
        for i, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            value = self._row(row)
            if isinstance(value, str):
                failed.append((row, value))
            else:
                pixels[i], batch_rows[i] = value, row
        return {"pixels": pixels, "row": batch_rows, "failed": failed}

    def _row(self, row: int) -> np.ndarray | str:
        k = row // self._entry.manifest.rows_per_shard
        if k != self._current[0]:
            self._current = k, self._shard(k)
        shard = self._current[1]
        while row not in shard:
            self._take_decoded()
        return shard[row]

    def _shard(self, k: int) -> _Shard:
        """Shard k as stored, or what is decoded of it so far."""
        while self._to_read and len(self._reading) < self._readers:
            ahead = self._to_read.popleft()
            self._reading.append((ahead, self._pool.submit(self._read, ahead)))
        if self._reading and self._reading[0][0] == k:
            return self._reading.popleft()[1].result()
        return self._filling.setdefault(k, {})

    def _take_decoded(self) -> None:
        row, value = next(self._decoded)
        k = row // self._entry.manifest.rows_per_shard
        shard = self._filling.setdefault(k, {})
        shard[row] = value
        if len(shard) == len(self._entry.shard_rows(k)):
            del self._filling[k]
            self._wait_for_writing()
            self._writing = self._pool.submit(self._write, k, shard)

    def _wait_for_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _read(self, k: int) -> _Shard:
        """Decodes rows that the shard lacks; all of them if it is damaged."""
        ids, array = self._entry.load_shard(k) or ([], [])
        stored, rows = dict(zip(ids, array)), self._entry.shard_rows(k)
        shard: _Shard = {row: stored[self._entry.ids[row]] for row in rows if self._entry.ids[row] in stored}
        lacking = [row for row in rows if row not in shard]
        if lacking:
            again = dict(self._decoder.decode(lacking, workers=0))
            shard |= again
            if not stored or not all(isinstance(value, str) for value in again.values()):
                self._write(k, shard)
        return shard

    def _write(self, k: int, shard: _Shard) -> None:
        if not self.keep:
            return
        kept: dict[int, np.ndarray] = {}
        for row in self._entry.shard_rows(k):
            value = shard[row]
            if not isinstance(value, str):
                kept[row] = value
        array = np.empty((len(kept), *(self._entry.manifest.row_shape or ())), np.uint8)
        for target, pixels in zip(array, kept.values()):
            target[...] = pixels
        skipped = [self._entry.ids[row] for row in shard if row not in kept]
        try:
            self._entry.write_shard(k, [self._entry.ids[row] for row in kept], array, skipped=skipped)
        except DataError as error:
            self.keep = False
            _log.warning("%s; until then pixels are decoded and not kept", error)

    def close(self) -> None:
        for _, reading in self._reading:
            reading.cancel()
        self._decoded.close()
        self._pool.shutdown()  # waits for a shard that is being written
        self._hold.close()
        # grain's iterators live until garbage collection; the pixels need not.
        self._reading.clear()
        self._filling.clear()
        self._current = (-1, {})
