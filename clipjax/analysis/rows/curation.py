"""The paper's Table IV for any models: a line per model, a column per aspect of robustness.

    table = curation_table(ResultStore("results").rows())
    print(export_curation(table, "markdown"))

configs/curation.toml has the columns.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.analysis.rows.cells import (
    Cell,
    Column,
    RowIndex,
    cells_of,
    column_from,
    prompts_of,
    term_of,
)
from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.results.completeness import in_words, is_whole
from clipjax.results.row import Row
from clipjax.results.tables import as_csv, as_latex, as_markdown, model_name
from clipjax.storage.reading import read_toml

NAMED = 3  # at most this many rows in an error message
FORMATS = ("table", "markdown", "latex", "csv", "json")
CELL_FIELDS = ("model", "column", "value", "lo", "hi", "level", "method", "rows", "missing")
CELL_FIELDS += ("part", "published", "source", "difference")
NOTE = (
    "* rests on published numbers, on parts or samples of data sets, or on several prompt sets or "
    "precisions; (k of n images): nothing is there of the whole data set; (k of n): rows are missing, so "
    "no mean is taken"
)

Table = dict[str, list[Cell]]
"""Model, as written by `model_name` -> its cells, in the order of the columns. Never empty."""


@functools.cache
def columns(file: Path | None = None) -> tuple[Column, ...]:
    """The columns of configs/curation.toml, or of a file of that form.

    Raises:
        DataError: another form; names file and column.
    """
    path = config_dir() / "curation.toml" if file is None else file
    records = read_toml(path).get("columns")
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected [[columns]], as configs/curation.toml has them")
    return tuple(column_from(record, f"{path}: column {n}") for n, record in enumerate(records, 1))


def curation_table(
    rows: Sequence[Row],
    models: Sequence[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
    of: Sequence[Column] | None = None,
) -> Table:
    """The table of all models with a row, or of `models` (ids, in order). See also `cells_of`.

    Raises:
        UsageError: a model is unknown, or has no row that the columns average.
        DataError: no row belongs to any column; or as `cells_of`.
    """
    of = columns() if of is None else of
    index = RowIndex(rows)
    with_rows = index.models_of(term for column in of for term in column.terms)
    if not with_rows:
        raise DataError(_why_none(index, of))
    for model in models or ():
        known_name("model", model, index.models)
        if model not in with_rows:
            terms = sorted({str(term_of(row)) for row in index if model_name(row) == model})
            have = ", ".join(terms[:NAMED])
            raise UsageError(f"{model} has rows ({have}), but none that the columns average: see --rows")
    return cells_of(index, of, models=models, prompts=prompts, precision=precision)


def _why_none(index: RowIndex, of: Sequence[Column]) -> str:
    terms = list(dict.fromkeys(term for column in of for term in column.terms))
    tasks = sorted({term.task for term in terms})
    if not index.models:
        return f"there are no result rows: run `clipjax eval` for {', '.join(tasks)}"
    there = sorted({(row["task"], row["dataset"]) for row in index})
    have = ", ".join(" ".join(each) for each in there[:NAMED])
    wanted = ", ".join(map(str, terms[:NAMED]))
    return f"none of the rows ({have}) is one that the columns average, such as {wanted}"


def wide(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: a line per model, then one per source of its published numbers. See `NOTE`."""
    lines = []
    for model, cells in table.items():
        lines.append([model, *map(_text, cells)])
        for source in dict.fromkeys(one["source"] for cell in cells for one in cell.reference):
            values = ({one["source"]: one for one in cell.reference}.get(source) for cell in cells)
            lines.append([f"  {source}", *("" if one is None else f"{one['value']:.4g}" for one in values)])
    return ["model", *(cell.column.title for cell in next(iter(table.values())))], lines


def _text(cell: Cell) -> str:
    if cell.value is not None:
        part = f" ({cell.part})" if cell.part else ""
        return f"{cell.value:.4f}{'' if _is_plain(cell.rows) else '*'}{part}"
    return f"({len(cell.rows)} of {len(cell.column.terms)})" if cell.rows else ""


def _is_plain(rows: Sequence[Row]) -> bool:
    ways = {(prompts_of(row), row["precision"]) for row in rows}
    return len(ways) == 1 and all(row["origin"] == "measured" and is_whole(row) for row in rows)


def long(table: Table) -> list[dict[str, Any]]:
    """A table as records: one for each cell, with the keys CELL_FIELDS."""
    return [_record(model, cell) for model, cells in table.items() for cell in cells]


def _record(model: str, cell: Cell) -> dict[str, Any]:
    interval = cell.interval or dict.fromkeys(("lo", "hi", "level", "method"))
    names = ("task", "dataset", "slice", "metric", "value", "interval", "run_id", "origin", "sample")
    names += ("precision", "convention")
    return {
        "model": model,
        "column": cell.column.key,
        "value": cell.value,
        **interval,
        "rows": [{name: row[name] for name in names} | {"part": in_words(row)} for row in cell.rows],
        "missing": list(cell.missing),
        "part": cell.part,
        **{
            ours: [one[theirs] for one in cell.reference]
            for ours, theirs in (("published", "value"), ("source", "source"), ("difference", "difference"))
        },
    }


def listing(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: a line per row of each cell, missing rows too."""
    lines = []
    for model, cells in table.items():
        for cell in cells:
            of_cell = [model, cell.column.key]
            for row in cell.rows:
                lines.append([*of_cell, _named(row), f"{row['value']:.4f}", row["origin"], row["run_id"]])
            lines += [[*of_cell, term, "", "missing", ""] for term in cell.missing]
    return ["model", "column", "row", "value", "origin", "run"], lines


def _named(row: Row) -> str:
    return f"{term_of(row)} ({words})" if (words := in_words(row)) else str(term_of(row))


def export_curation(table: Table, form: str) -> str:
    """Write the table as "markdown" or "latex" (`wide`), "csv" or "json" (`long`).

    Raises:
        UsageError: another form.
    """
    if form == "markdown":
        return as_markdown(*wide(table))
    if form == "latex":
        return as_latex(*wide(table))
    if form == "json":
        return json.dumps(long(table), indent=2) + "\n"
    if form == "csv":
        return _csv(long(table))
    raise UsageError(f"unknown format {form!r}; known: {', '.join(FORMATS)}")


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for record in records:
        rows = [f"{term_of(row)} = {row['value']}" for row in record["rows"]]
        lists = {"rows": rows} | {n: record[n] for n in ("missing", "published", "source", "difference")}
        cells = {**record, **{name: "; ".join(map(str, some)) for name, some in lists.items()}}
        lines.append([cells[name] for name in CELL_FIELDS])
    return as_csv(CELL_FIELDS, lines)
