"""Stopping when asked to: SIGTERM to any one process, or Ctrl-C, ends a step and not the run.

A scheduler that takes a machine away sends SIGTERM and waits some seconds. One process notes the signal and
stops behind the step that it is in. Of several processes, each of which waits for the others inside every
step, all must stop behind the same step: JAX's preemption service, which `jax.distributed.initialize` starts
and which catches SIGTERM there, lets them agree on it.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from clipjax.errors import Interrupted

_QUESTIONS = itertools.count(1)  # of this process, over all its runs
_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Preemption:
    """While it is entered, SIGTERM and Ctrl-C are requests; a second Ctrl-C stops at once.

    The handlers that were there before (the command line's exit at once) come back with its end. Outside the
    main thread, where Python gives no signals, nothing is caught. A signal that came too late to stop this
    run is sent again at its end.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if jax.process_count() == 1:
            with contextlib.suppress(ValueError):  # not in the main thread
                for number in _EXIT_CODES:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._signal is not None and error is None:
            signal.raise_signal(self._signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number

    def reached(self) -> bool:
        """Whether to stop behind this step: the same answer on every process, which all ask once a step.

        JAX's service agrees on the question after the last one that any process has asked, by its number: a
        number that came again in a later phase of a run (a probe, another seed) would be missed.
        """
        if jax.process_count() == 1:
            return self._signal is not None
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def interrupted(self, step: int, steps: int, kept: str) -> Interrupted:
        """The error to end with.

        Args:
            kept: where the state of this step is, "" for nowhere.
        """
        goes_on = f"it is kept in {kept}; run the same command again" if kept else "nothing was to be kept"
        code = _EXIT_CODES.get(signal.Signals(self._signal or signal.SIGTERM), 75)
        return Interrupted(f"interrupted behind step {step} of {steps}: {goes_on}", code)
