"""What commands print: lines for a person, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from clipjax.errors import visible
from clipjax.results.escaping import terminal


def say(text: object = "", *, err: bool = False, **style: Any) -> None:
    """Print lines; control characters are shown, not obeyed.

    Args:
        err: to stderr.
        style: as in `typer.secho`.
    """
    typer.secho(terminal(str(text)), err=err, **style)


def announce(line: str) -> None:
    """Print progress on stderr."""
    say(line, err=True)


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[object]],
    colours: Sequence[str | None] | None = None,
) -> None:
    """Print `rows` under `titles`. Columns of numbers are right-aligned.

    Args:
        colours: one for each row, on a terminal.
    """
    cells = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    columns = list(zip(*cells)) if cells else [()] * len(titles)
    widths = [max(len(title), *map(len, column), 0) for title, column in zip(titles, columns)]
    right = [bool(column) and all(not cell or _is_number(cell) for cell in column) for column in columns]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right))
        return "  ".join(parts).rstrip()

    typer.echo(line(titles))
    typer.echo("  ".join("-" * width for width in widths))
    for row, colour in zip(cells, colours or [None] * len(cells)):
        typer.secho(line(row), fg=colour)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
