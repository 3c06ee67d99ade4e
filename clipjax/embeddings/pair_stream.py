"""The pairs of a data set in steps: up to one pair per device, read ahead by threads."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import jax
import numpy as np

from clipjax.data.manifest import ChangedError
from clipjax.data.pairs.pair import Pair
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError
from clipjax.progress import progress_bar

LOADERS = 8  # threads that read pairs
AHEAD = 2  # steps whose pairs are read ahead


class Loads(Protocol):
    """Gives the pair of a row, or raises DataError."""

    def load(self, i: int) -> Pair: ...


# The rows of a step and their pairs -> an array for each pair, or why it has none.
Work = Callable[[Sequence[int], Sequence[Pair]], Sequence[np.ndarray | DataError]]


class _Loaded(NamedTuple):
    row: int
    pair: Pair | DataError


class PairStream:
    """Pairs through the devices of this process.

    Attributes:
        pairs: what reads them.
        size: pairs of a step.
        waited: seconds spent waiting for pairs.
    """

    def __init__(self, name: str, pairs: Loads, size: int, how: Compute) -> None:
        self.name, self.pairs, self.size, self.waited = name, pairs, size, 0.0
        self._stops, self._progress = how.on_error == "raise", how.progress

    def run(self, spans: Sequence[range], work: Work, doing: str) -> Iterator[dict[int, np.ndarray]]:
        """The arrays of each span's pairs by row, in turn; a skipped pair has none.

        Raises DataError for a pair that cannot be used, after the spans before it.
        """
        if not spans:
            return
        rows = list(itertools.chain(*spans))
        done: dict[int, np.ndarray | None] = {}
        waiting = collections.deque(spans)
        shown = self._progress and jax.process_index() == 0
        with progress_bar(len(rows), f"{doing} {self.name}", "pair", shown=shown) as bar:
            for results in self._results(rows, work):
                bar.update(len(results))
                unusable = {row: each for row, each in results.items() if isinstance(each, DataError)}
                done |= {row: each for row, each in results.items() if not isinstance(each, DataError)}
                if not self._stops:
                    done |= dict.fromkeys(unusable)
                while waiting and all(row in done for row in waiting[0]):
                    span = waiting.popleft()
                    arrays = {row: done.pop(row) for row in span}
                    yield {row: each for row, each in arrays.items() if each is not None}
                if unusable and self._stops:
                    raise next(iter(unusable.values()))

    def _results(self, rows: Sequence[int], work: Work) -> Iterator[dict[int, np.ndarray | DataError]]:
        """A step's pairs by row, each with its array or why it has none."""
        for group in self._groups(rows):
            unusable = {each.row: each.pair for each in group if isinstance(each.pair, DataError)}
            usable = {each.row: each.pair for each in group if isinstance(each.pair, Pair)}
            arrays = work(list(usable), list(usable.values())) if usable else []
            yield unusable | dict(zip(usable, arrays))

    def _groups(self, rows: Sequence[int]) -> Iterator[list[_Loaded]]:
        """Up to `size` readable pairs, in order, with the unreadable ones among them."""
        group: list[_Loaded] = []
        for each in self._loaded(rows):
            group.append(each)
            stops = self._stops and isinstance(each.pair, DataError)
            if stops or sum(isinstance(one.pair, Pair) for one in group) == self.size:
                yield group
                group = []
        if group:
            yield group

    def _loaded(self, rows: Sequence[int]) -> Iterator[_Loaded]:
        with ThreadPoolExecutor(LOADERS, "pairs") as pool:
            running: collections.deque[Future[_Loaded]] = collections.deque()
            remaining = iter(rows)
            try:
                while True:
                    for row in itertools.islice(remaining, AHEAD * self.size - len(running)):
                        running.append(pool.submit(self._load, row))
                    if not running:
                        return
                    start = time.perf_counter()
                    each = running.popleft().result()
                    self.waited += time.perf_counter() - start
                    yield each
            finally:
                for future in running:
                    future.cancel()

    def _load(self, row: int) -> _Loaded:
        try:
            return _Loaded(row, self.pairs.load(row))
        except ChangedError:  # nothing is wrong with the pair
            raise
        except DataError as error:
            return _Loaded(row, error)
