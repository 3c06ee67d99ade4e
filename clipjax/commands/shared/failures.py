"""Failures of the system, in one sentence: a failing disk, no memory left, input nested too deeply.

Readers refuse bad input themselves; this is the net below them. Bugs of clipjax (TypeError, KeyError, ...)
pass through: their traceback belongs in a bug report.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from clipjax.errors import DataError

TRACEBACK = "CLIPJAX_TRACEBACK"
PIPE_CLOSED = 141  # a shell's exit code for a command that SIGPIPE ended


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn OSError, MemoryError, RecursionError and names that are not UTF-8 into a DataError.

    CLIPJAX_TRACEBACK=1 in the environment leaves them as they are. Ends the process with exit code 141 if the
    reader of our output has gone (`clipjax models | head`).
    """
    try:
        try:
            yield
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # typer gives it another exit code
                raise end.__context__ from None
            _flush()
            raise
        _flush()
    except BrokenPipeError:
        raise SystemExit(PIPE_CLOSED) from None
    except (OSError, MemoryError, RecursionError, UnicodeEncodeError) as error:
        if os.environ.get(TRACEBACK) == "1" or (sentence := _sentence(error)) is None:
            raise
        raise DataError(f"{sentence} ({TRACEBACK}=1 shows where)") from None


def _flush() -> None:
    """Write the rest of our output: at the interpreter's exit an error can no longer be caught."""
    if sys.stdout is None:  # closed before we began (`>&-`)
        return
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:  # for what the interpreter still flushes
            os.dup2(nowhere.fileno(), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        raise


def _sentence(error: BaseException) -> str | None:
    """The sentence for an error; None if it is a mistake in clipjax."""
    if isinstance(error, MemoryError):
        what = f": {error}" if str(error) else ""
        return f"memory ran out{what}; give the machine more, or clipjax less at once"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply to be read"
    if isinstance(error, UnicodeEncodeError):
        if "surrogates" not in error.reason:
            return None
        text = ascii(error.object)[:200]
        return f"the name or text {text} is not UTF-8; rename the file, or write the text again"
    assert isinstance(error, OSError)
    if error.filename is None:
        return f"the system refused ({error.strerror or error})"
    return f"{os.fsdecode(error.filename)}: {error.strerror or error}"
