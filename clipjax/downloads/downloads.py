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
_LEAVING_S = (
    2.0  # seconds that the downloads have to end after an interrupt; a silent server may hold one longer
)
_LOOK_S = 0.2  # seconds between looks at the downloads


def download_all(
    files: Sequence[tuple[CardFile, Path]],
    *,
    at_once: int = AT_ONCE,
    shown: bool = True,
    notice: Callable[[str], object] = lambda _: None,
) -> list[Downloaded | ClipjaxError]:
    """Download files, in their order. One that fails does not stop the others.

    Args:
        files: each with the path that it gets, see `download`.
        at_once: how many come at the same time.
        shown: whether bars are shown on stderr.
        notice: is told sentences meanwhile, from several threads.

    Returns:
        For each file what came, or why it did not.
    """
    stop, todo = threading.Event(), queue.SimpleQueue[int]()
    ends: dict[int, Downloaded | Exception] = {}
    for k in range(len(files)):
        todo.put(k)
    with _Bars([file for file, _ in files], shown, notice, stop) as bars:

        def work() -> None:
            with suppress(queue.Empty, Stopped):
                while True:
                    k = todo.get_nowait()
                    try:
                        with bars.of(files[k][0]) as reports:
                            ends[k] = download(*files[k], reports)
                    except Stopped:
                        raise
                    except Exception as error:
                        ends[k] = error

        # Daemons: a server that is silent for long must not hold the end of the process.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(files)))]
        _run(threads, stop)
    return [_expected(ends[k]) for k in range(len(files))]


def _run(threads: list[threading.Thread], stop: threading.Event) -> None:
    """Wait for the threads; an interrupt of this one sets `stop`."""
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_LOOK_S)
    except BaseException:
        stop.set()
        until = time.monotonic() + _LEAVING_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise


def _expected(end: Downloaded | Exception) -> Downloaded | ClipjaxError:
    """Raises an error that is not the user's or the server's."""
    if isinstance(end, Downloaded | ClipjaxError):
        return end
    raise end


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
