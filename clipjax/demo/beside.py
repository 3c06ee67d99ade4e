"""Jobs of the demo in two processes.

    work_through([DemoJob("one", partial(train_one, out)), DemoJob("two", partial(train_two, out))])

One model as small as the demo's leaves a core idle.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

from clipjax.demo.jobs import DemoJob, Queue
from clipjax.devices import signals
from clipjax.errors import ClipjaxError, Interrupted
from clipjax.progress import share_terminal

WORKERS = 2
Prepare = Callable[[], bool]


def work_through(jobs: Sequence[DemoJob], prepare: Prepare = bool, *, apart: bool = True) -> None:
    """Call every job that is not made, in two processes that each take the next job that can begin.

    Args:
        prepare: called in a process before its first job with `device`; a function of a module. False: only
            the process that took the first one takes such jobs.
        apart: False calls the jobs here, one after the other, without `prepare`.

    Raises:
        ClipjaxError: a job failed, and both processes were ended at once; or a job can never begin.
        Interrupted: a signal ended a process.
    """
    queue, workers = Queue(jobs), list[_Worker]()
    if not apart:
        while (job := queue.take()) is not None:
            job.work()
            queue.end(job)
        return
    spawn = multiprocessing.get_context("spawn")
    lock = spawn.RLock()
    try:
        for line in range(WORKERS):
            workers.append(_Worker(spawn, line, lock, prepare))
        _hand_out(queue, workers)
        for worker in workers:
            worker.leave()
    except BaseException:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(signals.SAVING)  # it keeps what it needs to go on
        raise


class _Worker:
    """A process, as its parent sees it."""

    def __init__(self, spawn: SpawnContext, line: int, lock: Any, prepare: Prepare) -> None:
        self.connection, theirs = spawn.Pipe()
        self.job: DemoJob | None = None
        self.process = spawn.Process(target=_run, args=(theirs, line, lock, prepare))
        self.process.start()
        theirs.close()  # so that a dead process is the end of `connection`

    def begin(self, job: DemoJob) -> None:
        self.job = job
        self._send((job.work, job.device))

    def leave(self) -> None:
        self._send(None)
        self._join()

    def receive(self) -> bool | None:
        """Wait for the result of `prepare`; None if the job is done."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self._join()
            raise ClipjaxError("a process of the demo ended before its work was done") from None

    def _send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except ConnectionError:  # it has just died: the next call of `receive` or `_join` tells why
            return

    def _join(self) -> None:
        self.process.join()
        _raise_for(self.process.exitcode or 0)


def _hand_out(queue: Queue, workers: Sequence[_Worker]) -> None:
    # The first worker with a job for the device owns the device until some `prepare` returns that others may
    # use it, too.
    owner, shared = None, False
    while True:
        for worker in workers:
            if worker.job is not None:
                continue
            job = queue.take(device=shared or owner in (None, worker))
            if job is None:
                continue
            if job.device and owner is None:
                owner = worker
            worker.begin(job)
        if all(worker.job is None for worker in workers):
            return
        ready = multiprocessing.connection.wait([worker.connection for worker in workers])
        for worker in workers:
            if worker.connection not in ready:
                continue
            answer = worker.receive()
            if answer is not None:
                shared = answer
            elif worker.job is not None:
                queue.end(worker.job)
                worker.job = None


def _raise_for(code: int) -> None:
    code = signals.EXIT_CODES.get(-code, code)  # killed before it could catch the signal
    if code in signals.EXIT_CODES.values():
        raise Interrupted("a process of the demo was interrupted: run the same command again", code)
    if code < 0:
        raise ClipjaxError(f"a process of the demo was killed by signal {-code}: is there enough memory?")
    if code:
        error = ClipjaxError("a process of the demo failed: see its message above")
        error.exit_code = code
        raise error


def _run(connection: Connection, line: int, lock: Any, prepare: Prepare) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_terminal(line, lock)

    with signals.handled():
        try:
            _serve(connection, prepare)
        except ClipjaxError as error:
            signals.check()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)


def _serve(connection: Connection, prepare: Prepare) -> None:
    """Call what the parent sends, until it sends None."""
    prepared = False
    while (message := _received(connection)) is not None:
        work, device = message
        if device and not prepared:
            prepared = True
            connection.send(prepare())
        work()
        connection.send(None)


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:  # the parent is gone
        return None


def _end_with_parent() -> None:
    """End as after SIGTERM once the parent is gone, even if it was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        signals.ask(signal.SIGTERM)
