"""SIGTERM and Ctrl-C end a program for certain, within `GRACE` seconds.

A Python handler alone cannot promise that. It runs between two bytecodes of the main thread, and so not
while that thread is inside one long C call, as a compilation of XLA is. An exception that it raises is
swallowed in a callback of the garbage collector, in `__del__`, in a callback of a weak reference or of
ctypes. So three things work together:

* The handler raises `Interrupted`, and the main thread unwinds: it closes files and ends processes.
* A thread is woken by the signal itself: Python's C handler writes to a socket whatever the main thread does.
  Where the exception was dropped and the program goes on, this thread makes the handler raise it again.
* `GRACE` seconds after the signal this thread ends the process. Every file on a disk is whole or absent, so
  nothing is lost but what was being computed.

`run` is for the process's own program. Library code holds signals back with `Held`, which also works in a
program of the user's that knows nothing of this module. Only code that keeps Python's lock for longer than
the grace could delay the end; XLA, PIL, NumPy's long loops and file systems release it.
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
from collections.abc import Callable, Collection
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
# Wakes the main thread out of a system call. Nobody else sends it, and ignoring it is the default.
_WAKE = signal.SIGURG
_TICK = 0.1  # seconds between two looks at the main thread
_SPEAKING = 1.0  # seconds for the last sentence: stderr may be a pipe that nobody reads


def run(program: Callable[[], object]) -> None:
    """Run the process's own program, in the main thread, so that SIGTERM and Ctrl-C end it.

    Does not return where a signal ends it: the process says one sentence on stderr and exits with 75 after
    SIGTERM and 130 after Ctrl-C. A signal that comes when the program has ended changes nothing.

    Raises:
        What `program` raises, where no signal came before.
    """
    global _watch
    _watch = watch = _Watch()
    watch.start()
    try:
        try:
            program()
        except Interrupted:
            raise
        except BaseException as error:
            code = _exit_code(error)
            if code and watch.decided is None and watch.number is not None:
                # As far as anyone can tell, the error is a consequence of the signal.
                raise watch.interruption() from error
            watch.decided = code
            raise
        watch.decided = 0
    except Interrupted as error:
        watch.leave(error)


def ask(number: int, grace: float | None = None) -> None:
    """From any thread: act as if the process had got signal `number`, with `grace` seconds until the end."""
    if _watch is not None:
        _watch.ask(number, grace)


def done() -> None:
    """What the program is for is done and kept: a signal that comes from now on changes nothing."""
    if _watch is not None:
        check()
        _watch.decided = 0


def check() -> None:
    """Raise `Interrupted` if a signal came: what fails now may be a consequence."""
    if _watch is not None:
        _watch.raise_due()


def before_leaving(callback: Callable[[], object]) -> None:
    """Call `callback` when a signal ends the program, after the main thread has unwound."""
    _before_leaving.append(callback)


class Held:
    """While it is entered, signals are noted in `number` and raise nothing; afterwards they are raised.

    Under `run` the end comes for certain all the same, and a second Ctrl-C ends the process at once. In
    another program it raises KeyboardInterrupt, and the handlers of before come back. Outside the main
    thread, where Python handles no signals, nothing is caught.

    Args:
        numbers: the signals to hold.
        install: whether to install handlers where `run` has not. JAX handles SIGTERM itself in a process
            that belongs to several.
    """

    def __init__(self, numbers: Collection[int] = tuple(EXIT_CODES), install: bool = True) -> None:
        self._numbers, self._install = numbers, install
        self._before: dict[int, Any] = {}
        self._noted: int | None = None

    @property
    def number(self) -> int | None:
        """The first signal that came, or None."""
        return self._noted if _watch is None else _watch.number

    def __enter__(self) -> Held:
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
        """Put the end off until `seconds` from now: what is written next deserves to be waited for."""
        if _watch is None:
            return
        if _watch.deadline is None:  # the training loop has learned of the signal before the thread
            _watch.ask(signal.SIGTERM, seconds)
        else:
            _watch.deadline = max(_watch.deadline, time.monotonic() + seconds)


class _Watch:
    """The handlers, and the thread, of a process that `run` runs."""

    def __init__(self) -> None:
        self.number: int | None = None  # the first signal
        self.decided: int | None = None  # the exit code, once nothing can change it: the handler is quiet
        self.held: Collection[int] = ()
        self.deadline: float | None = None
        self._grace = GRACE
        self._in_flight: weakref.ref[BaseException] | None = None
        self._spoken = threading.Lock()
        self._main = threading.main_thread().ident or 0
        self._reader, self._writer = socket.socketpair()

    def start(self) -> None:
        self._writer.setblocking(False)  # as `set_wakeup_fd` asks
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*EXIT_CODES, _WAKE):
            signal.signal(number, self._handle)
        # Registered before JAX's exit handlers, so it runs after them: Python then restores the defaults.
        atexit.register(_set_all, signal.SIG_IGN)
        os.register_at_fork(after_in_child=_forget)
        self._silence(sys.unraisablehook)
        threading.Thread(target=self._listen, name="clipjax-signals", daemon=True).start()

    def _silence(self, hook: Callable[[Any], object]) -> None:
        """Python says where it swallowed an exception; ours will be raised again."""

        def unraisable(event: Any) -> None:
            if not isinstance(event.exc_value, Interrupted):
                hook(event)

        sys.unraisablehook = unraisable

    # --- the main thread ---

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in EXIT_CODES and self.number is None:
            self.number = number
        self.raise_due()

    def raise_due(self) -> None:
        """Raise `Interrupted` where a signal came, unless it is held or the main thread unwinds already."""
        if self._is_due():
            raise self.interruption()

    def _is_due(self) -> bool:
        if self.number is None or self.number in self.held or self.decided is not None:
            return False
        # An exception that is gone was swallowed. No frame keeps ours, or it would stay until a collection.
        return self._in_flight is None or self._in_flight() is None

    def interruption(self) -> Interrupted:
        number = self.number or signal.SIGTERM
        error = Interrupted(_SENTENCES[number], EXIT_CODES[number])
        self._in_flight = weakref.ref(error)
        return error

    def release(self, error: BaseException | None) -> None:
        """Hold nothing any more; `error` is what ended the part that held."""
        if error is not None:
            self._in_flight = weakref.ref(error)
        self.held = ()
        self.raise_due()

    def leave(self, error: Interrupted) -> NoReturn:
        """The main thread has unwound. An interpreter that shuts down around threads of JAX may abort."""
        self.decided = error.exit_code
        self.ask(signal.SIGTERM, None)  # what follows has an end, too
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
        """Once, by whichever thread comes first, behind what stdout still holds."""
        if not self._spoken.acquire(blocking=False):
            return
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(Exception):
            print(f"clipjax: {sentence}", file=sys.stderr, flush=True)


_watch: _Watch | None = None
_before_leaving: list[Callable[[], object]] = []


def _exit_code(error: BaseException) -> int:
    """What Python exits with when `error` reaches the top."""
    if not isinstance(error, SystemExit):
        return 1
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _exit(code: int) -> NoReturn:
    try:
        _end_children()
    finally:
        os._exit(code)


def _end_multiprocessing() -> None:
    """Unlink the semaphores of worker processes, which would be reported as leaked."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util._run_finalizers(0)


def _end_children() -> None:
    """SIGTERM to the processes that this one has started.

    Where Linux does not list them, they see by themselves that their parent is gone.
    """
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for process in path.read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(process), signal.SIGTERM)


def _set_all(action: signal.Handlers) -> None:
    for number in (*EXIT_CODES, _WAKE):
        signal.signal(number, action)


def _forget() -> None:
    """A forked child does not belong to the program: its signals are its own."""
    global _watch
    _watch = None
    signal.set_wakeup_fd(-1)
    _set_all(signal.SIG_DFL)
