"""Notes on stderr: the messages that clipjax logs and Python's warnings."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from clipjax.commands.shared.output import say
from clipjax.progress import is_shown


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), err=True)


def _show(message: Any, *_: object) -> None:
    say(message, err=True)


@contextlib.contextmanager
def logs_as_notes() -> Iterator[None]:
    """Print a log's message and a warning's text alone, without level, module or line.

    With --log-level error nothing appears, also from other libraries.
    """
    logger, notes, before = logging.getLogger("clipjax"), _Notes(), logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.showwarning = _show
        logger.addHandler(notes)
        logger.propagate = False  # a library may have given the root a handler of another form
        if not is_shown("warning"):
            logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
            logger.propagate = True
            logger.removeHandler(notes)
