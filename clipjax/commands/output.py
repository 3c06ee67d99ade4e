"""How the commands print tables: aligned columns on stdout, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print `rows` under `titles`. A column whose cells are all numbers (or empty) is right-aligned."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns = list(zip(*cells)) if cells else [()] * len(titles)
    widths = [max(len(title), *map(len, column), 0) for title, column in zip(titles, columns)]
    right = [bool(column) and all(not cell or _is_number(cell) for cell in column) for column in columns]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right))
        return "  ".join(parts).rstrip()

    typer.echo(line(titles))
    typer.echo("  ".join("-" * width for width in widths))
    for row in cells:
        typer.echo(line(row))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
