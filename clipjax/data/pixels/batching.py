"""Elements, one per image -> batches of one shape, in order, through threads or worker processes (grain)."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.errors import DataError, UsageError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

# Batches decoded ahead: enough to hide a slow file, small beside the model.
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class SkippedImage:
    """`reason` names the file."""

    row: int
    id: str
    reason: str

    def error(self) -> DataError:
        return DataError(f"{self.reason} (clipjax eval can leave such images out: --on-error skip)")


class Batches(Iterator[Batch]):
    """Iterator of {"pixels": uint8 [B,S,S,3], "row": int32 [B]}; `skipped` lists images left out so far.

    Closing it ends threads and workers early.
    """

    def __init__(self, elements: grain.IterDataset, ids: tuple[str, ...], skip: bool) -> None:
        self._iterator = iter(elements)
        self._ids = ids
        self._skip = skip
        self.skipped: list[SkippedImage] = []

    def __next__(self) -> Batch:
        try:
            batch = next(self._iterator)
        except StopIteration:
            self.close()
            raise
        for row, reason in batch.pop("failed"):
            skipped = SkippedImage(row, self._ids[row], reason)
            if not self._skip:
                self.close()
                raise skipped.error()
            self.skipped.append(skipped)
        return batch

    def close(self) -> None:
        self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_options(batch_size: int, workers: int, threads: int | None, on_error: str) -> None:
    """Raises UsageError for a batch size below 1, a negative count or an unknown `on_error`."""
    if batch_size < 1 or workers < 0 or (threads is not None and threads < 0):
        raise UsageError(
            "the batch size must be at least 1, and the numbers of workers and threads at least 0"
        )
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}")


def pad_rows(rows: np.ndarray, multiple: int) -> np.ndarray:
    """int32 rows, with -1 appended up to a multiple."""
    padding = np.full(-len(rows) % multiple, -1, np.int32)
    return np.concatenate([rows.astype(np.int32), padding])


def stacked(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of elements {"pixels", "row", "failed"}."""
    return {
        "pixels": np.stack([element["pixels"] for element in elements]),
        "row": np.stack([element["row"] for element in elements]),
        "failed": [element["failed"] for element in elements if element["failed"] is not None],
    }


def batched(
    elements: grain.MapDataset,
    batch_size: int,
    workers: int,
    threads: int | None,
    stack: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
    drop_remainder: bool = False,
) -> grain.IterDataset:
    """Workers take single elements, so their number does not change the order."""
    import grain  # loaded late: a run whose embeddings are stored decodes nothing
    from absl import flags

    if threads is None:
        threads = 1 if workers else os.cpu_count() or 1
    # Elements that each process reads ahead: two batches in all, and work for every thread.
    ahead = max(threads, _BATCHES_AHEAD * batch_size // max(1, workers))
    dataset = elements.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads an absl flag, and nothing else here parses them
        # Elements travel through pipes, not shared memory: copying is cheap beside decoding, and a killed
        # process would leak shared memory.
        options = grain.experimental.DatasetOptions(min_shm_size=2**62)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_end_with_parent)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder, batch_fn=stack)
    return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=_BATCHES_AHEAD)


def whole_batches(
    indices: grain.MapDataset,
    batch_size: int,
    threads: int | None,
    element: Callable[[Any], dict[str, Any]],
    stack: Callable[[Sequence[dict[str, Any]]], dict[str, Any]],
) -> grain.IterDataset:
    """Batches of `element(index)`, each made by one thread; an incomplete last one is dropped.

    Handing a single element from thread to thread takes 0.1 ms, more than a small image that is decoded.
    """
    import grain  # loaded late, as in `batched`

    def made(batch: Sequence[Any]) -> dict[str, Any]:
        return stack([element(index) for index in batch])

    threads = os.cpu_count() or 1 if threads is None else threads
    ahead = max(threads, _BATCHES_AHEAD)
    dataset = indices.batch(batch_size, drop_remainder=True, batch_fn=list).map(made)
    return dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))


def _end_with_parent(worker: int, workers: int) -> None:
    """Make a worker exit with its parent, even a killed one, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
