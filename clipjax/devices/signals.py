"""SIGTERM and Ctrl-C reliably end a program within `GRACE` seconds.

A Python handler alone cannot promise that. It runs between two bytecodes of the main thread, so not during a
compilation of XLA. Its exception is swallowed in `__del__` and in a callback of the garbage collector, a
weak reference or ctypes. So three things work together:

* The handler raises `Interrupted`, and the main thread unwinds.
* The signal wakes a thread: Python's C handler writes to a socket whatever the main thread does. If the
  exception was dropped, this thread makes the handler raise it again.
* `GRACE` seconds after the signal this thread ends the process. Files on disk are whole or absent.

Only code that keeps Python's lock could delay the end; XLA, PIL, NumPy and file systems release it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from clipjax.errors import Interrupted

GRACE = 15.0
"""Seconds from the signal to the end of the process."""
SAVING = 60.0
"""Seconds that a resume point has, from the moment at which training stops for it."""
EXIT_CODES: dict[int, int] = {signal.SIGTERM: 75, signal.SIGINT: 130}

_SENTENCES: dict[int, str] = {
    signal.SIGTERM: "interrupted: what is finished is kept; run the same command again",
    signal.SIGINT: "stopped: what is finished is kept; the same command goes on from there",
}
_DROPPED = "; what was being computed is dropped"
# Wakes the main thread from a system call. Nobody else sends this signal, and by default it is ignored.
_WAKE = signal.SIGURG
_TICK = 0.1  # seconds between checks of the main thread
_SPEAKING = 1.0  # seconds to print the last sentence: stderr may be a pipe that nobody reads


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """A context for the process's own program, in the main thread.

    After a signal it prints one sentence on stderr and exits with 75 (SIGTERM) or 130 (Ctrl-C). Signals after
    the program's end change nothing.

    Raises: what the program raises, if no signal came before.
    """
    global _watch
    _watch = watch = _Watch()
    watch.start()
    try:
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            code = _exit_code(error)
            if code and watch.decided is None and watch.number is not None:
                # The signal presumably caused the error.
                raise watch.interruption() from error
            watch.decided = code
            raise
        watch.decided = 0
    except Interrupted as error:
        watch.leave(error)


def ask(number: int, grace: float | None = None) -> None:
    """Act as if signal `number` had come, with `grace` seconds left; any thread may call this."""
    if _watch is not None:
        _watch.ask(number, grace)


def done() -> None:
    """Later signals change nothing: the program's work is kept."""
    if _watch is not None:
        check()
        _watch.decided = 0


def check() -> None:
    """Raise `Interrupted` if a signal came: what fails now may be its consequence."""
    if _watch is not None:
        _watch.raise_due()


def before_leaving(callback: Callable[[], object]) -> None:
    """Call `callback` when a signal ends the program, after the main thread has unwound."""
    _before_leaving.append(callback)


class DeferredSignals:
    """A context in which signals are only noted in `number`; they are raised afterwards.

    In `handled` the end still comes, and a second Ctrl-C ends the process at once. Elsewhere it raises
    KeyboardInterrupt, and the previous handlers return. Outside the main thread no signal is held.

    install: handlers where `handled` has not. In a job of several processes JAX handles SIGTERM itself.
    """

    def __init__(self, numbers: Collection[int] = tuple(EXIT_CODES), install: bool = True) -> None:
        self._numbers, self._install = numbers, install
        self._before: dict[int, Any] = {}
        self._noted: int | None = None

    @property
    def number(self) -> int | None:
        return self._noted if _watch is None else _watch.number

    def __enter__(self) -> DeferredSignals:
        if _watch is not None:
            _watch.held = self._numbers
        elif self._install:
            with contextlib.suppress(ValueError):  # not in the main thread
                for number in self._numbers:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _watch is not None:
            _watch.release(error)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._before and self._noted is not None and error is None:
            signal.raise_signal(self._noted)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._noted is not None:
            raise KeyboardInterrupt
        self._noted = number

    def extend(self, seconds: float = SAVING) -> None:
        """Delay the end until `seconds` from now, to finish a write."""
        if _watch is None:
            return
        if _watch.deadline is None:  # the training loop heard of the signal before the thread did
            _watch.ask(signal.SIGTERM, seconds)
        else:
            _watch.deadline = max(_watch.deadline, time.monotonic() + seconds)


class _Watch:
    def __init__(self) -> None:
        self.number: int | None = None  # the first signal
        self.decided: int | None = None  # the final exit code; from then on the handler does nothing
        self.held: Collection[int] = ()
        self.deadline: float | None = None
        self._grace = GRACE
        self._in_flight: weakref.ref[BaseException] | None = None
        self._spoken = threading.Lock()
        self._main = threading.main_thread().ident or 0
        self._reader, self._writer = socket.socketpair()

    def start(self) -> None:
        self._writer.setblocking(False)  # `set_wakeup_fd` requires it
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*EXIT_CODES, _WAKE):
            signal.signal(number, self._handle)
        # Registered before JAX's exit handlers, so it runs after them: Python then restores the defaults.
        atexit.register(_set_all, signal.SIG_IGN)
        os.register_at_fork(after_in_child=_forget)
        self._silence(sys.unraisablehook)
        self._catch(sys.excepthook)
        threading.Thread(target=self._listen, name="clipjax-signals", daemon=True).start()

    def _silence(self, hook: Callable[[Any], object]) -> None:
        """Hide Python's report of a swallowed `Interrupted`, which will be raised again."""

        def unraisable(event: Any) -> None:
            if not isinstance(event.exc_value, Interrupted):
                hook(event)

        sys.unraisablehook = unraisable

    def _catch(self, hook: Callable[..., object]) -> None:
        """Leave also after an `Interrupted` that is raised while `handled` is entered or left."""

        def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if isinstance(error, Interrupted):
                self.leave(error)
            hook(kind, error, trace)

        sys.excepthook = uncaught

    # --- the main thread ---

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in EXIT_CODES and self.number is None:
            self.number = number
        self.raise_due()

    def raise_due(self) -> None:
        """Raise `Interrupted`, unless the signal is held or the main thread already unwinds."""
        if self._is_due():
            raise self.interruption()

    def _is_due(self) -> bool:
        if self.number is None or self.number in self.held or self.decided is not None:
            return False
        # If our exception no longer exists, it was swallowed. So no frame may keep a reference to it, or it
        # would live until a garbage collection.
        return self._in_flight is None or self._in_flight() is None

    def interruption(self) -> Interrupted:
        number = self.number or signal.SIGTERM
        error = Interrupted(_SENTENCES[number], EXIT_CODES[number])
        self._in_flight = weakref.ref(error)
        return error

    def release(self, error: BaseException | None) -> None:
        """`error` is what ended the part that held."""
        if error is not None:
            with contextlib.suppress(TypeError):  # Python's own exceptions take no weak reference
                self._in_flight = weakref.ref(error)
        self.held = ()
        self.raise_due()

    def leave(self, error: Interrupted) -> NoReturn:
        """End the process: Python's own shutdown may abort around JAX's threads."""
        self.decided = error.exit_code
        self.ask(signal.SIGTERM, None)  # limits the time of the callbacks below
        self._say(str(error))
        for callback in (*_before_leaving, _end_multiprocessing):
            with contextlib.suppress(Exception):
                callback()
        _exit(error.exit_code)

    # --- the thread ---

    def ask(self, number: int, grace: float | None) -> None:
        if self.deadline is None:
            self._grace = max(self._grace, grace or 0)
            with contextlib.suppress(OSError):
                self._writer.send(bytes([number]))

    def _listen(self) -> None:
        while True:
            for number in self._received():
                if number in EXIT_CODES:
                    self._note(number)
            if self.deadline is not None:
                if time.monotonic() >= self.deadline:
                    self._end()
                if self._is_due():
                    signal.pthread_kill(self._main, _WAKE)

    def _received(self) -> bytes:
        self._reader.settimeout(None if self.deadline is None else _TICK)
        try:
            return self._reader.recv(64)
        except TimeoutError:
            return b""

    def _note(self, number: int) -> None:
        if self.deadline is None:
            self.number = self.number or number
            self.deadline = time.monotonic() + self._grace
        elif number == signal.SIGINT:
            self.number = number
            self._end()

    def _end(self) -> NoReturn:
        """End the process whatever the main thread does; unless its code is decided, say what is lost."""
        code = EXIT_CODES[self.number or signal.SIGTERM] if self.decided is None else self.decided
        try:
            if self.decided is None:
                sentence = _SENTENCES[self.number or signal.SIGTERM] + _DROPPED
                speaker = threading.Thread(target=self._say, args=(sentence,), daemon=True)
                speaker.start()
                speaker.join(_SPEAKING)
        finally:
            _exit(code)

    def _say(self, sentence: str) -> None:
        """Print once, from whichever thread comes first, after stdout's pending text."""
        if not self._spoken.acquire(blocking=False):
            return
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            print(f"clipjax: {sentence}", file=sys.stderr, flush=True)


_watch: _Watch | None = None
_before_leaving: list[Callable[[], object]] = []


def _exit_code(error: BaseException) -> int:
    """Python's exit code if `error` reaches the top."""
    if not isinstance(error, SystemExit):
        return 1
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _exit(code: int) -> NoReturn:
    try:
        _end_children()
    finally:
        os._exit(code)


def _end_multiprocessing() -> None:
    """Unlink the semaphores of workers, which Python would report as leaked."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util._run_finalizers(0)


def _end_children() -> None:
    """Send SIGTERM to child processes, where Linux lists them; others notice that their parent is gone."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for process in path.read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(process), signal.SIGTERM)


def _set_all(action: signal.Handlers) -> None:
    for number in (*EXIT_CODES, _WAKE):
        signal.signal(number, action)


def _forget() -> None:
    """A forked child handles its own signals."""
    global _watch
    _watch = None
    signal.set_wakeup_fd(-1)
    _set_all(signal.SIG_DFL)
