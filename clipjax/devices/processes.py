"""The processes of one job: how they find each other, and how a signal to one stops all.

JAX's preemption service takes over SIGTERM: the process that gets it leaves a notice, for which a thread in
each process polls. A training loop holds the signal, because its processes wait for each other inside every
step; the service decides after which step all stop.
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

HEARTBEAT = 30  # seconds after which a vanished process ends the others
_TICK = 0.25  # seconds between polls
_LAST = 2.0  # extra seconds for the first process, which the others need in order to leave
# The service's key for the notice. (The service's own query concerns a step and waits for all processes.)
# `tests/sweep` and `tests/finetune` fail if JAX renames the key.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"


def join_processes() -> None:
    """Raises UsageError if nothing identifies the other processes of the pod or cluster job."""
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--distributed: no pod, Slurm, MPI or GKE job says who is who ({error}); leave it out, or call "
            "jax.distributed.initialize yourself and use clipjax.evaluate"
        ) from None
    follow_notice()


def follow_notice() -> None:
    """Treat a SIGTERM to any process of the job as one to this process."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(over,), name="clipjax-notice", daemon=True)

    def leave() -> None:
        over.set()
        thread.join(10 * _TICK)

    thread.start()
    atexit.register(leave)  # runs before JAX's own, which ends the service that the thread polls
    signals.before_leaving(leave)
    signals.before_leaving(jax.distributed.shutdown)


def _follow(over: threading.Event) -> None:
    from jax._src import distributed  # the client is not public

    client: Any = distributed.global_state.client
    grace = signals.GRACE + (_LAST if distributed.global_state.process_id == 0 else 0)
    while not over.wait(_TICK):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # no notice yet
            client.key_value_try_get(_NOTICE)
            signals.ask(signal.SIGTERM, grace)
            return
