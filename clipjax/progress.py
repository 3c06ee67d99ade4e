"""Progress of a phase on stderr: a bar on a terminal, a few lines in a job's log.

`set_level` decides what appears on stderr besides a command's error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
# Seconds between two lines.
_APART = 1.0
LEVELS = ("error", "warning", "info", "debug")
_line = 0  # of this process's bars, see `share_terminal`

_level = "info"

T = TypeVar("T")


def set_level(level: str) -> None:
    """`level`: error (nothing), warning (notes), info (also progress), or debug."""
    global _level
    _level = level


def is_shown(level: str) -> bool:
    return LEVELS.index(level) <= LEVELS.index(_level)


def progress_bar(
    total: int, description: str, unit: str, *, shown: bool = True, initial: int = 0, delay: float = 0
) -> Bar:
    """A bar for `total` units, `initial` of them done; close it, or use it in a `with`.

    Nothing is shown for `delay` seconds.
    """
    shown = shown and is_shown("info")
    if shown and not sys.stderr.isatty():
        return ProgressLines(total, description, unit, initial, delay)
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=not shown,
        delay=delay,
        position=_line or None,
    )


def share_terminal(line: int, lock: Any) -> None:
    """Show this process's bars beside those of other processes, each on its own line.

    `line` 0 is the cursor's, 1 the next below it. The processes share `lock`.
    """
    global _line
    _line = line
    tqdm.set_lock(lock)


def progress_through(
    items: Iterable[T], total: int, description: str, unit: str, *, shown: bool = True
) -> Iterator[T]:
    with progress_bar(total, description, unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


class ProgressLines:
    """Part of tqdm's bar, as a line at each tenth of the way.

    A line within a second of another waits for a later update; the last never waits.
    """

    def __init__(self, total: int, description: str, unit: str, initial: int, delay: float) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._initial = self._done = initial
        self._tenths = self._tenth()
        self._postfix = ""
        self._start = time.perf_counter()
        self._first = self._next = self._start + delay

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        del refresh
        self._postfix = text

    def update(self, count: int = 1) -> None:
        self._done += count
        now, tenths = time.perf_counter(), self._tenth()
        due = now >= self._next or (self._done >= self._total and now >= self._first)
        if due and tenths > self._tenths:
            self._tenths, self._next = tenths, now + _APART
            self._tell(now - self._start)

    def close(self) -> None:
        """Do nothing: every line is whole."""

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tenth(self) -> int:
        return 10 * self._done // max(self._total, 1)

    def _tell(self, elapsed: float) -> None:
        line = tqdm.format_meter(
            self._done,
            self._total,
            elapsed,
            initial=self._initial,
            prefix=self._description,
            unit=self._unit,
            postfix=self._postfix,
            bar_format=_FORMAT,
        )
        print(line, file=sys.stderr, flush=True)


Bar = tqdm | ProgressLines
