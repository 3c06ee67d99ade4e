"""One number of a model: which result rows it is made of, and what is missing of it.

    cells_of(ResultStore("results").rows(), [column])   # -> {model: [its Cell]}

A column (of a table, an axis of a figure, a side of a claim) names the rows that it averages. Of several
rows of one number the same one is taken everywhere, by the rule of `cells_of`. A cell knows its rows; it has
a value only if none is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from clipjax.analysis.rows.scales import check_scale
from clipjax.errors import DataError, UsageError
from clipjax.results.completeness import in_words, is_whole
from clipjax.results.references import Score, compare, lookup
from clipjax.results.store import Row, run_order
from clipjax.results.tables import model_name

# Of a row's convention: where two rows of one number differ in it, neither stands for the other.
WAYS = {
    "label_space": "label spaces",
    "projection": "projections",
    "id": "ID sets",
    "annotations": "annotations",
}
INDEPENDENT, SHARED = "root_sum_of_squares", "mean_of_half_widths"


class Term(NamedTuple):
    """One row that a column averages, by what names it."""

    task: str
    dataset: str
    metric: str
    slice: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.task, self.dataset, self.slice, self.metric)))


@dataclass(frozen=True)
class Column:
    """The unweighted mean of some rows; see configs/curation.toml.

    Attributes:
        better: "higher", "lower" or "neither".
        shared: what the rows have in common, so that their errors do not cancel; None where each rests on
            images of its own.
        scale: of an axis; a name of `clipjax.analysis.rows.scales`.
    """

    key: str
    title: str
    better: str
    shared: str | None
    terms: tuple[Term, ...]
    scale: str = "probit"


@dataclass(frozen=True)
class Cell:
    """A column's number of one model.

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

    @property
    def part(self) -> str | None:
        """Which images it is of, where a row is not of its whole data set: "373 of 1,280 images"."""
        found = {words: None for row in self.rows if (words := in_words(row))}
        return None if not found else next(iter(found)) if len(found) == 1 else f"parts of {len(found)} sets"

    @property
    def n(self) -> int | None:
        """Images of all rows together; None where a row does not say."""
        counts = [row["n"] for row in self.rows]
        return None if None in counts or not counts else sum(counts)


class RowIndex:
    """Result rows by what names them. Build it once where many columns are read from the same rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.models: dict[str, None] = {}
        self._found: dict[Term, dict[str, list[Row]]] = {}
        for row in rows:
            name = model_name(row)
            self.models.setdefault(name)
            self._found.setdefault(term_of(row), {}).setdefault(name, []).append(row)

    def of(self, term: Term) -> Mapping[str, Sequence[Row]]:
        """The rows of one number, by the model's name."""
        return self._found.get(term, {})

    def models_of(self, terms: Iterable[Term]) -> list[str]:
        """The models that have a row of any of these, in the order of the rows."""
        have = set().union(*(self.of(term) for term in terms))
        return [model for model in self.models if model in have]

    def __iter__(self) -> Iterator[Row]:
        """All rows, number by number."""
        return (row for by_model in self._found.values() for rows in by_model.values() for row in rows)


def column_from(record: Mapping[str, Any], where: str) -> Column:
    """A column from its record in a TOML file.

    Args:
        where: the file and the place in it, which an error begins with.

    Raises:
        DataError: something is missing or unknown.
    """
    try:
        terms = tuple(_term(**row) for row in record["rows"])
        if not terms:
            raise ValueError("it averages no row")
        if wrong := [part for term in terms for part in term if not isinstance(part, str | None)]:
            raise ValueError(f"{wrong[0]!r} is not a text")
        names = (record["key"], record["title"], record["better"], record.get("shared"))
        if wrong := [name for name in names if not isinstance(name, str | None)]:
            raise ValueError(f"{wrong[0]!r} is not a text")
        check_scale(scale := record.get("scale", "probit"))
        return Column(*names, terms, scale)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise DataError(
            f"{where} needs key, title, better and rows of task, dataset, metric ({error})"
        ) from None


def cells_of(
    rows: Iterable[Row] | RowIndex,
    columns: Sequence[Column],
    *,
    models: Iterable[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
) -> dict[str, list[Cell]]:
    """The cells of every model, in the order of the columns.

    Several rows may have one number. Rows of whole data sets are taken before those of parts or samples,
    measured rather than published ones, those with the given prompts and precision, and of what is left the
    newest. So a part is a model's number only where nothing whole is there, and then `Cell.part` says so.

    Args:
        models: names as `model_name` writes them, in the order wanted; default all. A model without a row of
            any column has no entry.
        prompts: the prompt set, where a number was measured with several.
        precision: likewise.

    Raises:
        DataError: a number was measured with several prompt sets and `prompts` does not say which; or in
            several other ways (`WAYS`), of which all but one must be left out.
    """
    index = rows if isinstance(rows, RowIndex) else RowIndex(rows)
    terms = dict.fromkeys(term for column in columns for term in column.terms)
    table = {}
    for model in dict.fromkeys(index.models_of(terms) if models is None else models):
        found = {term: index.of(term)[model] for term in terms if model in index.of(term)}
        chosen = {term: _choose(model, term, some, prompts, precision) for term, some in found.items()}
        if found:
            table[model] = [_cell(model, column, chosen) for column in columns]
    return table


def _term(slice: str | None = None, **names: Any) -> Term:
    """A slice of "" is none: so a template of several columns may name one for some of them."""
    return Term(slice=None if slice == "" else slice, **names)


def term_of(row: Mapping[str, Any]) -> Term:
    """What names a row's number."""
    return Term(row["task"], row["dataset"], row["metric"], row["slice"])


def prompts_of(row: Row) -> str | None:
    """The prompt set of a row; None where none is known or none was used."""
    return row["convention"].get("prompts")


def _choose(model: str, term: Term, rows: Sequence[Row], prompts: str | None, precision: str) -> Row:
    for wanted in (
        is_whole,
        lambda row: row["origin"] == "measured",
        lambda row: row["precision"] == precision,
        lambda row: prompts is not None and prompts_of(row) == prompts,
    ):
        rows = [row for row in rows if wanted(row)] or rows
    if len(sets := sorted({str(prompts_of(row)) for row in rows})) > 1:
        asked = f", not with {prompts}" if prompts is not None else ""
        raise DataError(
            f"{model}: {term} was measured with the prompts {', '.join(sets)}{asked}: say which "
            "(--prompts NAME)"
        )
    for name, title in WAYS.items():
        if len(ways := ways_of(rows, name)) > 1:
            listed = ", ".join(f"{way} (run {run})" for way, run in ways.items())
            raise DataError(
                f"{model}: {term} was measured with several {title}: {listed}; these are different numbers: "
                "move the folders of the runs that are not wanted out of the results"
            )
    return max(rows, key=lambda row: run_order(row["run_id"]))


def ways_of(rows: Sequence[Row], name: str) -> dict[str, str]:
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
    cell = Cell(column, value, _interval(column, value, used), tuple(used), (), [])
    if not _comparable(used):
        return cell
    return replace(cell, reference=compare(value, _published(model, column, used), cell.part))


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
