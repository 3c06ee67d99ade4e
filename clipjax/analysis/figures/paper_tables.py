"""Tables of the paper from result rows: numbers with interval, n and the paper's value.

Several models that fit a line (three seeds of one fine-tuning) get a line each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipjax.analysis.figures.spec import Spec, TableLine
from clipjax.analysis.figures.yours import STATED, is_own, is_stated
from clipjax.analysis.rows.cells import Cell, Column, RowIndex, cells_of
from clipjax.analysis.rows.groups import matches
from clipjax.results.published.references import lookup
from clipjax.results.row import Row
from clipjax.results.tables import as_csv, as_latex, as_markdown

TABLE_FORMATS = {"markdown": "md", "latex": "tex", "csv": "csv"}  # format -> ending of its file
PAPER = "paper"  # one of the sources of published numbers
FIELDS = (
    "model",
    "facts_origin",
    "column",
    "value",
    "lo",
    "hi",
    "level",
    "method",
    "n",
    "part",
    "published",
    "difference",
    "missing",
)


@dataclass(frozen=True)
class FilledLine:
    """A line of a table; `model` and all `cells` are None if nothing was measured."""

    line: TableLine
    model: str | None
    cells: tuple[Cell | None, ...]
    published: tuple[float | None, ...]

    @property
    def name(self) -> str | None:
        facts = (row["model_facts"] for cell in self.cells if cell is not None for row in cell.rows)
        return f"{self.model} ({STATED})" if any(map(is_stated, facts)) else self.model


def fill_table(
    spec: Spec, index: RowIndex, prompts: str | None = None, precision: str = "parity"
) -> list[FilledLine]:
    """The lines in order; then the user's own models that fit none. Raises DataError as `cells_of`."""
    lines = [filled for line in spec.lines for filled in _fill(line, index, prompts, precision)]
    in_lines = {each.model for each in lines}
    rest = [filled for line in _own_lines(spec) for filled in _fill(line, index, prompts, precision)]
    return [*lines, *(each for each in rest if each.model not in in_lines and _is_own(each))]


def _own_lines(spec: Spec) -> list[TableLine]:
    """A line for any model, per different set of columns and convention (whose first values count)."""
    distinct: dict[Any, TableLine] = {}
    for line in spec.lines:
        convention = tuple((key, _listed(value)[0]) for key, value in sorted(line.convention.items()))
        distinct.setdefault((line.columns, convention), line)
    several, blank = len(distinct) > 1, ("",) * (len(spec.head) - 1)
    titles = {key: f"yours, as {line.cells[0]}" if several else "yours" for key, line in distinct.items()}
    return [
        replace(line, cells=(titles[key], *blank)[: len(spec.head)], where={}, published=None)
        for key, line in distinct.items()
    ]


def _is_own(filled: FilledLine) -> bool:
    rows = [row for cell in filled.cells if cell is not None for row in cell.rows]
    return bool(rows) and is_own(rows[0]["model_facts"])


def _fill(line: TableLine, index: RowIndex, prompts: str | None, precision: str) -> list[FilledLine]:
    """One line for each model that has rows of it; a line without a model if none has."""
    terms = dict.fromkeys(term for column in line.columns for term in column.terms)
    rows = [
        row
        for term in terms
        for model, some in index.of(term).items()
        for row in some
        if _agrees(row, line) and matches({**row["model_facts"], "model": model}, line.where)
    ]
    published = tuple(_published(line, column) for column in line.columns)
    table = cells_of(rows, line.columns, prompts=prompts, precision=precision)
    if not table:
        return [FilledLine(line, None, (None,) * len(line.columns), published)]
    return [FilledLine(line, model, tuple(cells), published) for model, cells in sorted(table.items())]


def _agrees(row: Row, line: TableLine) -> bool:
    """Whether a row has the line's convention. Keys that the row lacks are not compared."""
    convention = row["convention"]
    return all(convention[key] in _listed(v) for key, v in line.convention.items() if key in convention)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _published(line: TableLine, column: Column) -> float | None:
    model = line.published or line.where.get("model")
    if not isinstance(model, str):
        return None
    convention = {key: _listed(value)[0] for key, value in line.convention.items()}
    term, *others = column.terms
    named = (
        ("curation", "", column.key, None) if others else (term.task, term.dataset, term.metric, term.slice)
    )
    known = lookup(model, *named, convention)
    return next((score.value for score in known if score.source == PAPER), None)


def export_table(spec: Spec, lines: Sequence[FilledLine], form: str) -> str:
    """Write a table as "markdown", "latex" or "csv" (one line per number)."""
    if form == "csv":
        return _csv(spec, lines)
    titles = [*spec.head, *(column.title for column in spec.lines[0].columns), "model"]
    cells = [
        [*each.line.cells, *map(_text, each.cells, each.published), each.name or "no rows"] for each in lines
    ]
    about = f"{spec.paper}: {spec.title}. Value [interval] (the paper's value). {_counts(spec, lines)}"
    about = " ".join(f"{about} {spec.caption}".split())  # one line: a comment in LaTeX
    if form == "markdown":
        return f"{about}\n\n{as_markdown(titles, cells)}"
    return f"% {about}\n{as_latex(titles, cells)}"


def _counts(spec: Spec, lines: Sequence[FilledLine]) -> str:
    said = []
    for k, column in enumerate(spec.lines[0].columns):
        counts = sorted({cell.n for each in lines if (cell := each.cells[k]) is not None and cell.n})
        if counts:
            ends = dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1]))
            said.append(f"{column.title} {' to '.join(ends)}")
    return f"n: {'; '.join(said)}." if said else "n is not known."


def _text(cell: Cell | None, published: float | None) -> str:
    said = []
    if cell is not None and cell.value is not None:
        limits = cell.interval
        said.append(f"{cell.value:.3f}")
        said += [f"[{limits['lo']:.3f}, {limits['hi']:.3f}]"] if limits else []
        said += [f"({cell.part})"] if cell.part else []
    elif cell is not None:
        said.append(
            f"{len(cell.rows)} of {len(cell.column.terms)} rows" if len(cell.column.terms) > 1 else "no row"
        )
    return " ".join([*said, *([] if published is None else [f"({published:g})"])])


def _csv(spec: Spec, lines: Sequence[FilledLine]) -> str:
    cells = [
        [*each.line.cells, *_record(each, column, cell, published)]
        for each in lines
        for column, cell, published in zip(each.line.columns, each.cells, each.published)
    ]
    return as_csv([*spec.head, *FIELDS], cells)


def _record(line: FilledLine, column: Column, cell: Cell | None, published: float | None) -> list[Any]:
    value = None if cell is None else cell.value
    interval = (cell and cell.interval) or {}
    missing = map(str, column.terms) if cell is None else cell.missing
    difference = None if value is None or published is None else value - published
    limits = [interval.get(name) for name in ("lo", "hi", "level", "method")]
    n = None if cell is None else cell.n
    origin = cell.rows[0]["model_facts"].get("facts_origin") if cell is not None and cell.rows else None
    front = [line.model, origin, column.key, value, *limits]
    return [*front, n, cell and cell.part, published, difference, "; ".join(missing)]
