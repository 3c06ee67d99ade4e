"""One part of the demo in a process of its own, beside the rest.

    with beside(train_two, out):
        train_one(out)

JAX divides a single program over the cores badly when the models are as small as the demo's: two programs
at a time keep two cores busy.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipjax.devices import signals
from clipjax.errors import ClipjaxError, Interrupted


@contextmanager
def beside(part: Callable[..., object], *arguments: Any, apart: bool = True) -> Iterator[None]:
    """Call `part(*arguments)` in a second process while the block runs; the block ends when both are done.

    Args:
        part: a function of a module, which another process can import; it reports to files and stderr.
        apart: False calls it in this process, before the block.

    Raises:
        ClipjaxError: `part` failed, with its exit code; its message is on stderr already.
        Interrupted: a signal ended `part`, and not this process.
    """
    if not apart:
        part(*arguments)
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(part, arguments))
    process.start()
    try:
        yield
        process.join()
    except BaseException:
        process.terminate()
        process.join(signals.SAVING)  # it keeps what it needs to go on
        raise
    _raise_for(process.exitcode or 0)


def _raise_for(code: int) -> None:
    """Raise for the second process as it would have been raised for this one."""
    code = signals.EXIT_CODES.get(-code, code)  # killed before it could catch the signal
    if code in signals.EXIT_CODES.values():
        raise Interrupted("the second process was interrupted: run the same command again", code)
    if code < 0:
        raise ClipjaxError(f"the second process was killed by signal {-code}: is there enough memory?")
    if code:
        error = ClipjaxError("the second process failed: see its message above")
        error.exit_code = code
        raise error


def _run(part: Callable[..., object], arguments: tuple) -> None:
    """The second process: it ends on the same signals and with the same exit codes as the first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def program() -> None:
        try:
            part(*arguments)
        except ClipjaxError as error:
            signals.check()
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    signals.run(program)


def _end_with_parent() -> None:
    """Act as after SIGTERM as soon as the parent is gone, even if it was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        signals.ask(signal.SIGTERM)
