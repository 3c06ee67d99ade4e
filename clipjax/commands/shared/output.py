"""Output of commands: lines for a person, and tables."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from clipjax.commands.shared.columns import fitted, terminal_width
from clipjax.errors import visible
from clipjax.progress import is_shown
from clipjax.results.escaping import terminal

SOON = 0.7  # seconds within which a command prints something on a terminal
_printed = threading.Event()


def say(text: object = "", *, err: bool = False, **style: Any) -> None:
    """Print lines; control characters are shown, not obeyed.

    Args:
        err: to stderr, a note: not with --log-level error.
        style: as in `typer.secho`.
    """
    _printed.set()
    if not err or is_shown("warning"):
        typer.secho(terminal(str(text)), err=err, **style)


def announce(line: str) -> None:
    """Print progress on stderr."""
    if is_shown("info"):
        say(line, err=True)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Print on a terminal that the command has started, unless it prints something soon."""
    _printed.clear()
    timer = threading.Timer(SOON, lambda: None if _printed.is_set() else announce("starting ..."))
    timer.daemon = True
    if sys.stderr is not None and sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[object]],
    colours: Sequence[str | None] | None = None,
) -> None:
    """Print `rows` under `titles`. Columns of numbers are right-aligned.

    On a terminal that is too narrow, columns with one value in all rows go to a headline, long texts are
    wrapped, and columns that still do not fit follow below (`columns.fitted`).

    Args:
        colours: one for each row, on a terminal.
    """
    _printed.set()
    cells = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    for line in fitted([visible(title) for title in titles], cells, terminal_width()):
        colour = colours[line.row] if colours and line.row is not None else None
        typer.secho(line.text, fg=colour)
