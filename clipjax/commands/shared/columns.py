"""Lay out a table for a terminal's width.

for line in fitted(titles, cells, 80): print(line.text)

A width counts the terminal's columns; a Chinese letter takes two. rich's own table is not used: on a narrow
terminal it breaks names and numbers, and 300 models take it 0.2 s instead of 0.03.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len, chop_cells

GAP = "  "
NARROWEST = 16  # columns that a wrapped text keeps
LONGEST = 28  # letters of a word that is not broken
HEADLINE = 40  # characters of a value that goes to the headline


class Line(NamedTuple):
    """`row`: whose cells the line shows; None for titles and headlines."""

    text: str
    row: int | None = None


class _Column(NamedTuple):
    title: str
    cells: tuple[str, ...]

    @property
    def is_numbers(self) -> bool:
        return bool(self.cells) and all(not cell or _is_number(cell) for cell in self.cells)

    @property
    def width(self) -> int:
        return max(cell_len(self.title), *map(cell_len, self.cells), 0)

    @property
    def longest_word(self) -> int:
        words = [word for text in (self.title, *self.cells) for word in text.split()]
        return max(map(cell_len, words), default=0)


def terminal_width() -> int | None:
    """COLUMNS of the environment, else the terminal's; None for a file or a pipe."""
    if os.environ.get("COLUMNS", "").isdecimal() or (sys.stdout is not None and sys.stdout.isatty()):
        return shutil.get_terminal_size().columns
    return None


def fitted(titles: Sequence[str], cells: Sequence[Sequence[str]], width: int | None) -> Iterator[Line]:
    """The table's lines.

    A table wider than `width` loses, until it fits: columns with one value in all rows (to a headline), then
    its longest texts (wrapped), then its last columns (to a second table below, with the same first column).
    """
    columns = [_Column(title, tuple(row[number] for row in cells)) for number, title in enumerate(titles)]
    if width is None or _total([each.width for each in columns]) <= width:
        yield from _lines(columns, [each.width for each in columns])
        return
    shared, columns = _apart(columns)
    if shared:
        words = ", ".join(f"{each.title} {each.cells[0]}" for each in shared)
        yield from map(Line, _wrapped(words, width))
        yield Line("")
    for number, block in enumerate(_blocks(columns, width)):
        if number:
            yield Line("")
        yield from _lines(block, _narrowed(block, width))


def _apart(columns: Sequence[_Column]) -> tuple[list[_Column], list[_Column]]:
    """(columns with one short value in all rows, the others); empty columns are in neither."""
    first, *others = columns
    if len(first.cells) < 2:
        return [], [first, *others]
    same = [each for each in others if len(set(each.cells)) == 1 and len(each.cells[0]) <= HEADLINE]
    return [each for each in same if each.cells[0]], [each for each in columns if each not in same]


def _blocks(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Columns that fit side by side; each block begins with the first column."""
    first, *others = columns
    blocks = [[first]]
    for column in others:
        block = blocks[-1]
        is_full = _needed([*block, column]) > width
        if is_full and len(block) > 1:  # a block has a column beside the first, however wide
            blocks.append([first])
        blocks[-1].append(column)
    return blocks


def _least(column: _Column) -> int:
    """The width that a column needs: numbers are not broken, nor are short words."""
    if column.is_numbers:
        words = map(len, column.title.split())
        return max(min(max(words, default=0), LONGEST), *map(len, column.cells))
    return min(column.width, max(min(column.longest_word, LONGEST), NARROWEST))


def _needed(columns: Sequence[_Column]) -> int:
    return _total(_least_of(columns))


def _least_of(columns: Sequence[_Column]) -> list[int]:
    """The words of the first column are names: they stay whole, to be copied."""
    return [columns[0].longest_word, *(_least(each) for each in columns[1:])]


def _narrowed(columns: Sequence[_Column], width: int) -> list[int]:
    """The widest columns are narrowed first, none below what it needs."""
    widths, least = [each.width for each in columns], _least_of(columns)
    while _total(widths) > width and widths != least:
        loose = [number for number in range(len(widths)) if widths[number] > least[number]]
        widths[max(loose, key=lambda number: widths[number])] -= 1
    return widths


def _lines(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[Line]:
    yield from map(Line, _line([each.title for each in columns], columns, widths))
    yield Line(GAP.join("-" * width for width in widths))
    for number in range(len(columns[0].cells)):
        row = [each.cells[number] for each in columns]
        yield from (Line(text, number) for text in _line(row, columns, widths))


def _line(row: Sequence[str], columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[str]:
    """One row; several lines if a cell is wrapped."""
    for parts in zip_longest(*map(_wrapped, row, widths), fillvalue=""):
        yield GAP.join(map(_padded, parts, columns, widths)).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """The text's lines; with letters that take two columns, it is broken between any two letters."""
    if cell_len(text) <= width:
        return [text]
    if cell_len(text) == len(text):
        return textwrap.wrap(text, width, break_on_hyphens=False)
    return [line.strip() for line in chop_cells(text, width)]


def _padded(text: str, column: _Column, width: int) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if column.is_numbers else text + blanks


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
