"""Stopping when asked to: SIGTERM to any one process, or Ctrl-C, ends a step and not the run.

A scheduler that takes a machine away sends SIGTERM and waits some seconds. One process holds the signal back
and stops after the step that it is in. Of several processes, each of which waits for the others inside every
step, all must stop after the same step: JAX's preemption service, which `jax.distributed.initialize` starts
and which catches SIGTERM there, lets them agree on it. A step that takes longer than `signals.GRACE` ends
with the process: the last resume point is what is left then.
"""

from __future__ import annotations

import itertools
import signal
from types import TracebackType

import jax
from jax.experimental import multihost_utils

from clipjax.devices import signals
from clipjax.errors import Interrupted

_QUESTIONS = itertools.count(1)  # of this process, over all its runs


class Preemption:
    """While it is entered, SIGTERM and Ctrl-C are requests; a second Ctrl-C stops at once.

    Several processes take only SIGTERM as a request: they cannot agree on a Ctrl-C. A signal that came too
    late to stop this run is raised at its end.
    """

    def __init__(self) -> None:
        alone = jax.process_count() == 1
        numbers = tuple(signals.EXIT_CODES) if alone else (signal.SIGTERM,)
        self._signals = signals.Held(numbers, install=alone)

    def __enter__(self) -> Preemption:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, trace)

    def reached(self) -> bool:
        """Whether to stop after this step: the same answer on every process, which all ask once a step.

        JAX's service agrees on the question after the last one that any process has asked, by its number: a
        number that came again in a later phase of a run (a probe, another seed) would be missed.
        """
        if jax.process_count() == 1:
            return self._signals.number is not None
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def saving(self) -> None:
        """The state of the last step is written from now on: the process is not ended meanwhile."""
        self._signals.extend()

    def interrupted(self, step: int, steps: int, kept: str) -> Interrupted:
        """The error to end with.

        Args:
            kept: where the state of this step is, "" for nowhere.
        """
        goes_on = f"it is kept in {kept}; run the same command again" if kept else "nothing was to be kept"
        code = signals.EXIT_CODES[self._signals.number or signal.SIGTERM]
        return Interrupted(f"interrupted after step {step} of {steps}: {goes_on}", code)
