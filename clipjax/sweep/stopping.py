"""Stopping a sweep on SIGTERM: all processes at one agreed moment, within seconds, with exit code 75.

A scheduler that takes a machine away sends SIGTERM and waits some seconds. One process raises `Interrupted`
where it stands: shards and results are whole or absent, so what it is at is dropped and all before it kept.
Of several processes each may be anywhere in its own shards. JAX's preemption service, which
`jax.distributed.initialize` starts and which catches SIGTERM there, lets them agree: a thread of each asks it
every `TICK` seconds, by the number of the tick since all started together. At the tick that the service
names, all threads interrupt their process.

Neither way waits for ever: a process that is deep in a compilation, or in a collective with one that has
gone, is ended after `GRACE` seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from clipjax.errors import Interrupted
from clipjax.sharding import barrier

CODE = 75
TICK = 0.25
GRACE = 14.0
LAST = 2.0  # more seconds for the first process, which the others need for leaving


class Stop:
    """While it is entered, SIGTERM to any process raises `Interrupted` in all of them.

    Outside the main thread, where Python gives no signals, nothing is caught.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is not threading.main_thread():
            return self
        if jax.process_count() == 1:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._interrupt)
            self._ends = socket.socketpair()
            self._ends[1].setblocking(False)  # as `set_wakeup_fd` asks
            self._wakeup = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
            target: Any = self._listen
        else:
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._interrupt)
            barrier("a sweep starts")
            target = self._agree
        self._thread = threading.Thread(target=target, name="clipjax-stop", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._ends is not None:
            signal.set_wakeup_fd(self._wakeup)
            self._ends[1].send(b"\0")
        if self._thread is not None:
            self._thread.join(GRACE)  # asking the service takes a moment, and longer while processes leave
        for end in self._ends or ():
            end.close()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _listen(self) -> None:
        """The signal itself wakes this thread, whatever the main one is in."""
        assert self._ends is not None
        while not self._over.is_set():
            numbers = self._ends[0].recv(64)
            if signal.SIGTERM in numbers:
                self._end_later()
                return

    def _agree(self) -> None:
        start, asked = time.monotonic(), 0
        while not self._over.wait(TICK):
            while asked < (time.monotonic() - start) / TICK:
                asked += 1
                if multihost_utils.reached_preemption_sync_point(asked):
                    self._end_later()
                    main = threading.main_thread().ident
                    assert main is not None
                    signal.pthread_kill(main, signal.SIGUSR1)
                    return

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Interrupted("interrupted: finished runs and shards are kept; run the same command again", CODE)

    def _end_later(self) -> None:
        """End the process if it has not ended by itself; everything on disks is whole or absent."""

        def end() -> None:
            time.sleep(GRACE + (LAST if jax.process_index() == 0 else 0))
            print("clipjax: interrupted; what was being computed is dropped", file=sys.stderr, flush=True)
            os._exit(CODE)

        threading.Thread(target=end, name="clipjax-end", daemon=True).start()
