"""Agreement between a job's processes; all call each function at the same point."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.errors import DataError

_SHOWN = 256  # bytes of a value that differs between processes, in the message


def assert_same_everywhere(what: str, value: str) -> None:
    """Check that all processes have the same value.

    Otherwise a host that lacks a file makes the others wait forever for a batch.

    Raises:
        DataError: on every process; names `what` and a process that differs, with both values.
    """
    if jax.process_count() == 1:
        return
    whole = value.encode(errors="backslashreplace")
    mine = hashlib.sha256(whole).digest() + whole[:_SHOWN].ljust(_SHOWN, b"\0")
    rows = [row.tobytes() for row in multihost_utils.process_allgather(np.frombuffer(mine, np.uint8))]
    if different := [i for i, row in enumerate(rows) if row != rows[0]]:
        values = [row[hashlib.sha256().digest_size :].rstrip(b"\0").decode(errors="ignore") for row in rows]
        raise DataError(
            f"{what} differs between processes: process {different[0]} has {values[different[0]]}, "
            f"process 0 has {values[0]} ({len(different)} of {len(values)} differ from it); "
            "give every host the same data"
        )


def failed_process(failure: Exception | None) -> int | None:
    """The number of the first process with a `failure`; None if no process has one.

    Every process calls this, with its own failure: none then waits for one that has left.
    """
    if jax.process_count() == 1:
        return None if failure is None else 0
    failed = np.flatnonzero(multihost_utils.process_allgather(np.array(failure is not None)))
    return int(failed[0]) if len(failed) else None


@contextlib.contextmanager
def on_all(what: str, *, apart: bool = False) -> Iterator[None]:
    """A context for work that every process does; if it fails on one, none continues.

    A process that failed alone would wait in its next task for others that wait for it here.

    Args:
        what: the work, after "could not" in the message of the others.
        apart: each process has work of its own and waits for none: nothing is exchanged.

    Raises: what the work raises; on the others a DataError naming the first that failed.
    """
    try:
        yield
    except Exception as error:
        if not apart:
            failed_process(error)
        raise
    if not apart and (failed := failed_process(None)) is not None:
        raise DataError(f"process {failed} could not {what}: see its message")


def first_writes(write: Callable[[], object], what: str) -> None:
    """The first process writes; the others wait.

    Raises: on the first process what `write` raises; on the others a DataError.
    """
    with on_all(f"write {what}"):
        if jax.process_index() == 0:
            write()


def first_decides(decide: Callable[[], str], what: str) -> str:
    """The first process's decision, on all processes; raises as `first_writes`."""
    decided: list[str] = []
    first_writes(lambda: decided.append(decide()), what)
    if jax.process_count() == 1:
        return decided[0]
    mine = np.frombuffer("".join(decided).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(mine))))
    decision = multihost_utils.broadcast_one_to_all(mine if decided else np.zeros(size, np.uint8))
    return np.asarray(decision).tobytes().decode()


def largest_everywhere(value: int) -> int:
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.array(value))))


def barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
