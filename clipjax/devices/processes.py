"""The processes of one job: how they find each other, and how a signal to one of them stops all.

`jax.distributed.initialize` starts JAX's preemption service, which takes SIGTERM over: the process that gets
it leaves a notice for all. A thread of each process looks for the notice and passes it on to
`clipjax.devices.signals`, so that all are interrupted at one moment, whatever they are in. The processes of a
training loop wait for each other inside every step; it holds the signal, and the service says after which
step all stop.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from typing import Any

import jax

from clipjax.devices import signals
from clipjax.errors import UsageError

HEARTBEAT = 30  # seconds after which a process that has vanished ends the others
_TICK = 0.25  # seconds between two questions
_LAST = 2.0  # more seconds for the first process, which the others need for leaving
# Where the service notes the signal. It answers for a step alone, and waits then until all have asked;
# `tests/sweep` and `tests/finetune` fail with a JAX that calls it otherwise.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"


def join_processes() -> None:
    """Join the other processes of a pod or cluster job. Raises UsageError where nothing says who is who."""
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--distributed: no pod, Slurm, MPI or GKE job says who is who ({error}); leave it out, or call "
            "jax.distributed.initialize yourself and use clipjax.evaluate"
        ) from None
    follow_notice()


def follow_notice() -> None:
    """From now on a SIGTERM to any process of the job counts as one to this process."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(over,), name="clipjax-notice", daemon=True)

    def leave() -> None:
        over.set()
        thread.join(10 * _TICK)

    thread.start()
    atexit.register(leave)  # before JAX's own: it asks a service that goes then
    signals.before_leaving(leave)
    signals.before_leaving(jax.distributed.shutdown)


def _follow(over: threading.Event) -> None:
    from jax._src import distributed  # the client has no public name

    client: Any = distributed.global_state.client
    grace = signals.GRACE + (_LAST if distributed.global_state.process_id == 0 else 0)
    while not over.wait(_TICK):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # without a notice
            client.key_value_try_get(_NOTICE)
            signals.ask(signal.SIGTERM, grace)
            return
