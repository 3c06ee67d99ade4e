"""Parts of the demo side by side.

    side_by_side(partial(train_one, out), partial(train_two, out))

One model as small as the demo's leaves a core idle.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from typing import Any

from clipjax.devices import signals
from clipjax.errors import ClipjaxError, Interrupted
from clipjax.progress import share_terminal

Part = Callable[[], object]


def side_by_side(*parts: Part, apart: bool = True) -> None:
    """Call each part in a process of its own; return when all are done.

    Args:
        parts: functions of a module, or `functools.partial` of them.
        apart: False calls them here, one after the other.

    Raises:
        ClipjaxError: a part failed; the others were ended at once.
        Interrupted: a signal ended a part.
    """
    if not apart:
        for part in parts:
            part()
        return
    spawn, running = multiprocessing.get_context("spawn"), []
    lock = spawn.RLock()
    try:
        for line, part in enumerate(parts):
            process = spawn.Process(target=_run, args=(part, line, lock))
            process.start()
            running.append(process)
        _wait(running)
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.join(signals.SAVING)  # it keeps what it needs to go on
        raise


def _wait(processes: Sequence[SpawnProcess]) -> None:
    running = list(processes)
    while running:
        ended = multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [each for each in running if each.sentinel in ended]:
            process.join()  # its exit code may come a little later
            _raise_for(process.exitcode or 0)
            running.remove(process)


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


def _run(part: Part, line: int, lock: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share_terminal(line, lock)

    def program() -> None:
        try:
            part()
        except ClipjaxError as error:
            signals.check()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    signals.run(program)


def _end_with_parent() -> None:
    """As after SIGTERM once the parent is gone, even if killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        signals.ask(signal.SIGTERM)
