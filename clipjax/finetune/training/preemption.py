"""Stop on request: SIGTERM to any process, or Ctrl-C, ends the run after the current step.

A step longer than `signals.GRACE` ends with the process. Several processes wait for each other in every step,
so all must stop after the same one: JAX's preemption service, started by `jax.distributed.initialize`,
chooses it.
"""

from __future__ import annotations

import itertools
import signal
from types import TracebackType

import jax
from jax.experimental import multihost_utils

from clipjax.devices import signals
from clipjax.errors import Interrupted

_QUESTIONS = itertools.count(1)  # one count per process, for all its runs: see `Preemption.reached`


class Preemption:
    """A context in which SIGTERM and Ctrl-C are requests; a second Ctrl-C stops at once.

    Several processes cannot agree on a Ctrl-C: for them only SIGTERM is a request. A signal too late to stop
    the run is raised at its end.
    """

    def __init__(self) -> None:
        alone = jax.process_count() == 1
        numbers = tuple(signals.EXIT_CODES) if alone else (signal.SIGTERM,)
        self._signals = signals.DeferredSignals(numbers, install=alone)

    def __enter__(self) -> Preemption:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, trace)

    def reached(self) -> bool:
        """Whether to stop after this step; equal on every process. All must ask once per step.

        JAX's service agrees on the question after the last asked, so a later phase must not reuse a number.
        """
        if jax.process_count() == 1:
            return self._signals.number is not None
        return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))

    def saving(self) -> None:
        """Extend the grace period while saving."""
        self._signals.extend()

    def interrupted(self, step: int, steps: int, kept: str) -> Interrupted:
        """`kept` is where this step's state is saved, or ""."""
        goes_on = f"it is kept in {kept}; run the same command again" if kept else "nothing was to be kept"
        code = signals.EXIT_CODES[self._signals.number or signal.SIGTERM]
        return Interrupted(f"interrupted after step {step} of {steps}: {goes_on}", code)
