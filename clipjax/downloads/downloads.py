"""Several files at once, each with a bar, and one bar for all of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.downloads.part_file import Stopped
from clipjax.downloads.transfer import Downloaded, Reports, download
from clipjax.errors import ClipjaxError
from clipjax.progress import aside, progress_bar, skip

AT_ONCE = 4
# Seconds that the downloads have to end after an interrupt; a silent server may hold one longer.
_LEAVING_S = 2.0
_LOOK_S = 0.2  # seconds between looks at the downloads


def downloading(
    files: Sequence[tuple[CardFile, Path]],
    *,
    at_once: int = AT_ONCE,
    shown: bool = True,
    notice: Callable[[str], object] = lambda _: None,
) -> Iterator[tuple[CardFile, Downloaded | ClipjaxError]]:
    """Download files, and yield each with what came, or why it did not, as soon as it ends.

    One that fails does not stop the others. An interrupt, or closing the iterator, ends them all; what came
    stays for the next call.

    Args:
        files: each with the path that it gets, see `download`.
        at_once: how many come at the same time.
        shown: whether bars are shown on stderr.
        notice: is told sentences meanwhile, from several threads.
    """
    stop, todo = threading.Event(), queue.SimpleQueue[tuple[CardFile, Path]]()
    ends = queue.SimpleQueue[tuple[CardFile, Downloaded | Exception]]()
    for each in files:
        todo.put(each)
    with _Bars([file for file, _ in files], shown, notice, stop) as bars:
        # Daemons: a server that is silent for long must not hold the end of the process.
        threads = [
            threading.Thread(target=_work, args=(todo, ends, bars), daemon=True)
            for _ in range(min(at_once, len(files)))
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in files:
                file, end = _next(ends)
                if not isinstance(end, Downloaded | ClipjaxError):
                    raise end  # a fault of ours
                yield file, end
        finally:
            stop.set()
            _join(threads)


def _work(
    todo: queue.SimpleQueue[tuple[CardFile, Path]],
    ends: queue.SimpleQueue[tuple[CardFile, Downloaded | Exception]],
    bars: _Bars,
) -> None:
    """Download one file after the other, until none is left or all are to stop."""
    with suppress(queue.Empty, Stopped):
        while True:
            file, path = todo.get_nowait()
            ends.put((file, _end(file, path, bars)))


def _join(threads: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + _LEAVING_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _end(file: CardFile, path: Path, bars: _Bars) -> Downloaded | Exception:
    """How the download of a file ends. Raises Stopped."""
    try:
        with bars.of(file) as reports:
            return download(file, path, reports)
    except Stopped:
        raise
    except Exception as error:
        return error


def _next(
    ends: queue.SimpleQueue[tuple[CardFile, Downloaded | Exception]],
) -> tuple[CardFile, Downloaded | Exception]:
    """The next end. Waits in steps: a signal is heard only between them."""
    while True:
        with suppress(queue.Empty):
            return ends.get(timeout=_LOOK_S)


class _Bars:
    """The bars of the files that come, below one for all. Its methods may be called in several threads."""

    def __init__(
        self, files: list[CardFile], shown: bool, notice: Callable[[str], object], stop: threading.Event
    ) -> None:
        self._all = progress_bar(sum(file.size or 0 for file in files), "downloads", "B", shown=shown)
        self._shown, self._notice, self._stop = shown, notice, stop
        self._lines = list(range(1, len(files) + 1))  # those without a bar
        self._lock = threading.RLock()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()

    @contextmanager
    def of(self, file: CardFile) -> Iterator[Reports]:
        """The bar of a file, while it comes."""
        with self._lock:
            line = self._lines.pop(0)
            bar = progress_bar(file.size, file.name, "B", shown=self._shown, line=line)
        expected, counted, coming = file.size or 0, 0, False

        def progress(count: int) -> None:
            nonlocal counted
            if self._stop.is_set():
                raise Stopped
            with self._lock:
                counted += count
                for each in (bar, self._all):
                    each.update(count) if coming else skip(each, count)

        def length(size: int) -> None:
            nonlocal expected, coming
            with self._lock:
                self._all.total += size - expected
                bar.total, expected, coming = size, size, True

        def notice(sentence: str) -> None:
            with self._lock, aside():
                self._notice(sentence)

        try:
            yield Reports(progress, length, notice, self._stop)
        finally:
            with self._lock:
                self._all.total += counted - expected
                bar.close()
                self._lines.append(line)
                self._lines.sort()
