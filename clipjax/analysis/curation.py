"""The curation table: a line a model, a column an aspect of robustness, from result rows and nothing else.

    table = curation_table(ResultStore("results").rows())
    print(export_curation(table, "markdown"))

It is Table IV of the paper for any set of models. configs/curation.toml says which rows each column averages;
another file of that form makes a table of other data sets. A cell knows its rows and what is missing; it has
a value only if nothing is. Where something is published of a cell, that stands beside.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.config import config_dir, read_toml
from clipjax.errors import DataError, UsageError
from clipjax.references import Score, compare, lookup
from clipjax.result_tables import as_latex, as_markdown, model_name
from clipjax.results import Row

FORMATS = ("table", "markdown", "latex", "csv", "json")
CELL_FIELDS = ("model", "column", "value", "lo", "hi", "level", "method", "rows", "missing")
CELL_FIELDS += ("published", "source", "difference")
NOTE = (
    "* rests on published numbers, on samples of data sets, or on several prompt sets or precisions; "
    "(k of n): rows are missing, so no mean is taken"
)
# Of a row's convention: where two rows of one number differ in it, neither stands for the other.
WAYS = {
    "label_space": "label spaces",
    "projection": "projections",
    "id": "ID sets",
    "annotations": "annotations",
}
INDEPENDENT, SHARED = "root_sum_of_squares", "mean_of_half_widths"


@dataclass(frozen=True)
class Term:
    """One row that a column averages, by what names it."""

    task: str
    dataset: str
    metric: str
    slice: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.task, self.dataset, self.slice, self.metric)))


@dataclass(frozen=True)
class Column:
    """A column of the table; see configs/curation.toml."""

    key: str
    title: str
    better: str
    shared: str | None
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Cell:
    """One number of the table.

    Attributes:
        rows: the result rows that it averages, in the column's order.
        missing: the rows that are not there, or have no value, and then why. With any, `value` is None.
        interval: lo, hi, level, method; None where a row has none.
        reference: what is published of it, as in a result row.
    """

    column: Column
    value: float | None
    interval: dict[str, Any] | None
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    reference: list[dict[str, Any]]


Table = dict[str, list[Cell]]
"""Model, as `model_name` writes it -> its cells, in the order of the columns. Never empty."""


@functools.cache
def columns(file: Path | None = None) -> tuple[Column, ...]:
    """The columns of configs/curation.toml, or of another file of that form.

    Raises:
        DataError: the file is not of that form; names it and the column.
    """
    path = config_dir() / "curation.toml" if file is None else file
    found = read_toml(path).get("columns")
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: expected [[columns]], as configs/curation.toml has them")
    return tuple(_column(path, number, record) for number, record in enumerate(found, 1))


def _column(path: Path, number: int, record: Mapping[str, Any]) -> Column:
    try:
        rows = tuple(Term(**row) for row in record["rows"])
        if not rows:
            raise ValueError("it averages no row")
        return Column(record["key"], record["title"], record["better"], record.get("shared"), rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: column {number} needs key, title, better and rows of task, dataset, metric ({error})"
        ) from None


def curation_table(
    rows: Sequence[Row],
    models: Sequence[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
    of: Sequence[Column] | None = None,
) -> Table:
    """The table of some models.

    Of several rows of one number these are taken: measured rather than published ones, those with the given
    prompts and precision, those of whole data sets rather than of samples, and of what is left the newest.

    Args:
        rows: result rows, e.g. `ResultStore.rows()`.
        models: their ids, in the order wanted; default all that have a row of some column.
        prompts: the prompt set, where a number was measured with several.
        precision: likewise.
        of: the columns; default those of the paper's table.

    Raises:
        UsageError: a model has no row at all.
        DataError: no row belongs to any column; a number was measured with several prompt sets and `prompts`
            does not say which; or in several other ways (`WAYS`), of which all but one must be left out.
    """
    of = columns() if of is None else of
    terms = {term for column in of for term in column.terms}
    found: dict[str, dict[Term, list[Row]]] = {}
    for row in rows:
        if (term := _term(row)) in terms:
            found.setdefault(model_name(row), {}).setdefault(term, []).append(row)
    if not found:
        wanted = ", ".join(sorted({term.task for term in terms}))
        raise DataError(f"no result row belongs in the curation table: run `clipjax eval` for {wanted}")
    if unknown := [model for model in models or () if model not in found]:
        raise UsageError(f"{unknown[0]} has no row in the curation table; these have: {', '.join(found)}")
    table = {}
    for model in dict.fromkeys(models or found):
        chosen = {term: _choose(model, term, some, prompts, precision) for term, some in found[model].items()}
        table[model] = [_cell(model, column, chosen) for column in of]
    return table


def _choose(model: str, term: Term, rows: Sequence[Row], prompts: str | None, precision: str) -> Row:
    for wanted in (
        lambda row: row["origin"] == "measured",
        lambda row: row["precision"] == precision,
        lambda row: prompts is not None and _prompts(row) == prompts,
        lambda row: not _is_sample(row),
    ):
        rows = [row for row in rows if wanted(row)] or rows
    if len(sets := sorted({str(_prompts(row)) for row in rows})) > 1:
        raise DataError(
            f"{model}: {term} was measured with the prompts {', '.join(sets)}: say which (--prompts NAME)"
        )
    for name, title in WAYS.items():
        if len(ways := _ways(rows, name)) > 1:
            listed = ", ".join(f"{way} (run {run})" for way, run in ways.items())
            raise DataError(
                f"{model}: {term} was measured with several {title}: {listed}; these are different numbers: "
                "move the folders of the runs that are not wanted out of the results"
            )
    return max(rows, key=lambda row: row["run_id"])


def _ways(rows: Sequence[Row], name: str) -> dict[str, str]:
    """What rows say of one part of their convention -> a run that says so. One that says nothing agrees.

    Annotations go by the digest in the recipe, beside their name where they have one.
    """
    found: dict[str, str] = {}
    for row in rows:
        convention, recipe = row["convention"], row["recipe"]
        if name == "annotations" and recipe.get(name):
            way = " ".join(filter(None, (convention.get(name), recipe[name][:12])))
            found.setdefault(way, row["run_id"])
        elif name in convention:
            found.setdefault(str(convention[name] or "none"), row["run_id"])
    return found


def _is_sample(row: Row) -> bool:
    """Of the data set, or of the ID set that it was compared with."""
    return row["sample"] is not None or row["convention"].get("id_sample") is not None


def _prompts(row: Row) -> str | None:
    return row["convention"].get("prompts")


def _cell(model: str, column: Column, chosen: Mapping[Term, Row]) -> Cell:
    used, missing = [], []
    for term in column.terms:
        row = chosen.get(term)
        if row is not None and row["value"] is not None:
            used.append(row)
        else:
            missing.append(str(term) if row is None or not row["note"] else f"{term} ({row['note']})")
    if missing:
        return Cell(column, None, None, tuple(used), tuple(missing), [])
    value = sum(row["value"] for row in used) / len(used)
    reference = compare(value, _published(model, column, used)) if _comparable(used) else []
    return Cell(column, value, _interval(column, value, used), tuple(used), (), reference)


def _comparable(rows: Sequence[Row]) -> bool:
    """A number that is itself published is not compared with one."""
    return any(row["origin"] == "measured" for row in rows) or len(rows) > 1


def _published(model: str, column: Column, rows: Sequence[Row]) -> list[Score]:
    """Scores of the column that the conventions of all its rows agree with; of one row, those of the row."""
    term, *others = column.terms
    if others:
        found = lookup(model, "curation", "", column.key)
    else:
        found = lookup(model, term.task, term.dataset, term.metric, term.slice)
    return [score for score in found if all(score.agrees(row["convention"]) for row in rows)]


def _interval(column: Column, value: float, rows: Sequence[Row]) -> dict[str, Any] | None:
    """The rows' intervals combined, each side for itself; a single row's own.

    Data sets of their own images err independently: the half-widths add up as squares (MOVER, Zou & Donner
    2008). Rows that share images err together: the mean of the half-widths is what the interval is at most.
    """
    limits = [row["interval"] for row in rows]
    if None in limits or len({limit["level"] for limit in limits}) > 1:
        return None
    if len(limits) == 1:
        return dict(limits[0])
    down = [max(row["value"] - limit["lo"], 0.0) for row, limit in zip(rows, limits)]
    up = [max(limit["hi"] - row["value"], 0.0) for row, limit in zip(rows, limits)]
    combine = sum if column.shared else lambda widths: math.hypot(*widths)
    return {
        "lo": value - combine(down) / len(rows),
        "hi": value + combine(up) / len(rows),
        "level": limits[0]["level"],
        "method": SHARED if column.shared else INDEPENDENT,
    }


def wide(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: a line a model and, where something is published, a line for each source.

    A cell that misses rows says how many it has, e.g. `(5 of 7)`, and no value. `NOTE` explains the star.
    """
    lines = []
    for model, cells in table.items():
        lines.append([model, *map(_text, cells)])
        for source in dict.fromkeys(one["source"] for cell in cells for one in cell.reference):
            values = ({one["source"]: one for one in cell.reference}.get(source) for cell in cells)
            lines.append([f"  {source}", *("" if one is None else f"{one['value']:.4g}" for one in values)])
    return ["model", *(cell.column.title for cell in next(iter(table.values())))], lines


def _text(cell: Cell) -> str:
    if cell.value is not None:
        return f"{cell.value:.4f}{'' if _is_plain(cell.rows) else '*'}"
    return f"({len(cell.rows)} of {len(cell.column.terms)})" if cell.rows else ""


def _is_plain(rows: Sequence[Row]) -> bool:
    ways = {(_prompts(row), row["precision"]) for row in rows}
    return len(ways) == 1 and all(row["origin"] == "measured" and not _is_sample(row) for row in rows)


def long(table: Table) -> list[dict[str, Any]]:
    """Everything of every cell, one record a cell: the values of CELL_FIELDS.

    `rows` are records of the rows averaged: what names them, value, interval, where they are from.
    """
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
        "rows": [{name: row[name] for name in names} for row in cell.rows],
        "missing": list(cell.missing),
        **{
            ours: [one[theirs] for one in cell.reference]
            for ours, theirs in (("published", "value"), ("source", "source"), ("difference", "difference"))
        },
    }


def listing(table: Table) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table of all rows: which number went into which cell, and what is missing."""
    lines = []
    for model, cells in table.items():
        for cell in cells:
            of_cell = [model, cell.column.key]
            for row in cell.rows:
                lines.append([*of_cell, str(_term(row)), f"{row['value']:.4f}", row["origin"], row["run_id"]])
            lines += [[*of_cell, term, "", "missing", ""] for term in cell.missing]
    return ["model", "column", "row", "value", "origin", "run"], lines


def export_curation(table: Table, form: str) -> str:
    """The table as "markdown" or "latex" (wide), "csv" or "json" (everything of every cell).

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
    """One line a cell; lists are written with "; " between, rows by what names them and their value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CELL_FIELDS)
    for record in records:
        rows = [f"{_term(row)} = {row['value']}" for row in record["rows"]]
        lists = {"rows": rows} | {n: record[n] for n in ("missing", "published", "source", "difference")}
        cells = {**record, **{name: "; ".join(map(str, some)) for name, some in lists.items()}}
        writer.writerow([cells[name] for name in CELL_FIELDS])
    return text.getvalue()


def _term(row: Mapping[str, Any]) -> Term:
    return Term(row["task"], row["dataset"], row["metric"], row["slice"])
