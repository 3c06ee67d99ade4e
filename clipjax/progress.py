"""Progress of a phase on stderr: a bar on a terminal, a few lines in a job's log.

`set_level` decides what appears on stderr besides a command's error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_BYTES = "B"
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
    total: int | None,
    description: str,
    unit: str,
    *,
    shown: bool = True,
    initial: int = 0,
    delay: float = 0,
    line: int = 0,
) -> Bar:
    """A bar for `total` units, `initial` of them done; close it, or use it in a `with`.

    Args:
        total: may be changed meanwhile; None: not known.
        unit: "B", bytes, are shown as kB, MB, GB.
        delay: nothing is shown for this many seconds.
        line: where the bar is on a terminal, below the one of line 0. Such a bar goes when it is closed; a
            log has the bar of line 0 alone.
    """
    shown = shown and is_shown("info")
    if shown and not sys.stderr.isatty():
        if not line:
            return ProgressLines(total or 0, description, unit, initial, delay)
        shown = False
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        unit_scale=unit == _BYTES,
        disable=not shown,
        delay=delay,
        position=_line + line or None,
        leave=not line,
    )


def skip(bar: Bar, count: int) -> None:
    """Move a bar over units that an earlier run did: they do not count in the rate."""
    if isinstance(bar, ProgressLines) or not bar.disable:
        bar.n += count
        bar.initial += count
        bar.last_print_n += count


@contextmanager
def aside() -> Iterator[None]:
    """A context for lines on stderr that bars on a terminal do not overwrite."""
    with tqdm.external_write_mode(file=sys.stderr):
        yield


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
        self.total, self._description, self._unit = total, description, unit
        self.initial = self.n = self.last_print_n = initial
        self._postfix = ""
        self._start = time.perf_counter()
        self._first = self._next = self._start + delay

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        del refresh
        self._postfix = text

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.perf_counter()
        due = now >= self._next or (self.n >= self.total and now >= self._first)
        # The last line's tenth is one of today's total: 3 of 3 files are a third when the total becomes 9.
        if due and self._tenth(self.n) > self._tenth(self.last_print_n):
            self.last_print_n, self._next = self.n, now + _APART
            self._tell(now - self._start)

    def close(self) -> None:
        """Do nothing: every line is whole."""

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tenth(self, n: float) -> int:
        return int(10 * n // max(self.total, 1))

    def _tell(self, elapsed: float) -> None:
        line = tqdm.format_meter(
            self.n,
            self.total,
            elapsed,
            initial=self.initial,
            prefix=self._description,
            unit=self._unit,
            unit_scale=self._unit == _BYTES,
            postfix=self._postfix,
            bar_format=_FORMAT,
        )
        print(line, file=sys.stderr, flush=True)


Bar = tqdm | ProgressLines
