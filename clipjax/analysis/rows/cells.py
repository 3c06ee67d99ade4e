"""Cells: a model's number, the rows it averages, and the rows it lacks.

    cells_of(ResultStore("results").rows(), [column])   # -> {model: [its Cell]}

A column names the rows to average; a cell has a value only if no row is missing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

from clipjax.analysis.rows.scales import Scale
from clipjax.errors import DataError
from clipjax.results.completeness import in_words, is_whole
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.published.references import Score, compare, lookup
from clipjax.results.row import Row
from clipjax.results.rows import of_people
from clipjax.results.store import run_order
from clipjax.results.tables import model_name
from clipjax.storage.records import NotEmpty, read

# Parts of a row's convention. Rows of one number that differ here are different measurements.
WAYS = {
    "label_space": "label spaces",
    "projection": "projections",
    "id": "ID sets",
    "annotations": "annotations",
    "layers": "layers",
    "attention": "attentions",
    "positions": "rules of positions",
    "made": "makings of the images",
    "fit": "sets of training images",
}
# Fields of a model that answers count too. A CLIP has none of them, and is compared with it.
OF_QUESTIONS = {"question": "questions", "option": "forms of an option"}
_WAYS_OF_ANSWERS = {
    **OF_QUESTIONS,
    "chat": "forms of a chat",
    "resize": "resize modes",
    "steps": "lengths of answers",
}
INDEPENDENT, SHARED = "root_sum_of_squares", "mean_of_half_widths"


class Term(NamedTuple):
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
        shared: what all rows have in common, such as images, so that their errors add up; None if nothing.
        scale: from `clipjax.analysis.rows.scales`.
    """

    key: str
    title: str
    better: str
    shared: str | None
    terms: tuple[Term, ...]
    scale: str = "probit"


@dataclass(frozen=True)
class Cell:
    """A column's number for one model.

    Attributes:
        interval: None where a row has none.
        missing: terms without a row, and rows without a value, each with the reason.
        reference: published numbers, as in a result row.
    """

    column: Column
    value: float | None
    interval: dict[str, Any] | None
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    reference: list[dict[str, Any]]

    @functools.cached_property
    def part(self) -> str | None:
        """The images used, if part of a data set: "373 of 1,280 images"."""
        parts = {words: None for row in self.rows if (words := in_words(row))}
        return None if not parts else next(iter(parts)) if len(parts) == 1 else f"parts of {len(parts)} sets"

    @property
    def n(self) -> int | None:
        """The number of samples; None if a row has none."""
        counts = [n for row in self.rows if (n := row["n"]) is not None]
        return sum(counts) if counts and len(counts) == len(self.rows) else None


class RowIndex:
    """Result rows by term and model; data sets of one name are `with_distinct_names`.

    `people`: each number's newest row of people, who are not models.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.models: dict[str, None] = {}
        self.people: dict[Term, Row] = {}
        self._found: dict[Term, dict[str, list[Row]]] = {}
        for row in with_distinct_names(rows):
            if of_people(row):
                newest = self.people.setdefault(term_of(row), row)
                self.people[term_of(row)] = max(newest, row, key=lambda each: run_order(each["run_id"]))
                continue
            name = model_name(row)
            self.models.setdefault(name)
            # Equal to the row's term, and made in a fourth of the time.
            key: Any = (row["task"], row["dataset"], row["metric"], row["slice"])
            by_model = self._found.get(key)
            if by_model is None:
                by_model = self._found[Term(*key)] = {}
            by_model.setdefault(name, []).append(row)

    @property
    def terms(self) -> Iterable[Term]:
        """The terms that rows have, in the order of the rows."""
        return self._found

    def of(self, term: Term) -> Mapping[str, Sequence[Row]]:
        return self._found.get(term, {})

    def models_of(self, terms: Iterable[Term]) -> list[str]:
        """The models of rows, in row order."""
        have = set().union(*(self.of(term) for term in terms))
        return [model for model in self.models if model in have]

    def __iter__(self) -> Iterator[Row]:
        return (row for by_model in self._found.values() for rows in by_model.values() for row in rows)


@dataclass(frozen=True)
class TermRecord:
    """A term as a file has it. A slice "" means None: a template of several columns sets it for some only."""

    task: str
    dataset: str
    metric: str
    slice: str | None = None


def terms_of(records: Sequence[TermRecord]) -> tuple[Term, ...]:
    return tuple(Term(each.task, each.dataset, each.metric, each.slice or None) for each in records)


@dataclass(frozen=True)
class _ColumnRecord:
    key: str
    title: str
    better: Literal["higher", "lower", "neither"]
    rows: Annotated[tuple[TermRecord, ...], NotEmpty()]
    shared: str | None = None
    scale: Scale = "probit"


def column_from(record: Mapping[str, Any], where: str) -> Column:
    """Raises DataError, beginning with `where`, for all that is missing, unknown or mistyped."""
    column = read(_ColumnRecord, record, where)
    rows = terms_of(column.rows)
    return Column(column.key, column.title, column.better, column.shared, rows, column.scale)


def cells_of(
    rows: Iterable[Row] | RowIndex,
    columns: Sequence[Column],
    *,
    models: Iterable[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
) -> dict[str, list[Cell]]:
    """The cells of every model, in the columns' order.

    Among several rows of a number: the whole data set before parts and samples, published images before own
    copies (`clipjax corrupt`), measured before published numbers, then `precision`, `prompts`, and the newest
    run with a value.

    `models`: names from `model_name`, in order; default all. A model without any of the rows has no entry.

    Raises:
        DataError: a number was measured with several prompt sets and `prompts` picks none, or in several
            other ways (`WAYS` and those of answers).
    """
    index = rows if isinstance(rows, RowIndex) else RowIndex(rows)
    terms = {term: index.of(term) for column in columns for term in column.terms}
    table = {}
    for model in dict.fromkeys(index.models_of(terms) if models is None else models):
        by_term = {
            term: some[0] if len(some) == 1 else _choose(model, term, some, prompts, precision)
            for term, by_model in terms.items()
            if (some := by_model.get(model))
        }
        if by_term:
            table[model] = [_cell(model, column, by_term) for column in columns]
    return table


def term_of(row: Mapping[str, Any]) -> Term:
    return Term(row["task"], row["dataset"], row["metric"], row["slice"])


def prompts_of(row: Row) -> str | None:
    """The prompts of a row; None if they are unknown or were not used."""
    return row["convention"].get("prompts")


def _choose(model: str, term: Term, rows: Sequence[Row], prompts: str | None, precision: str) -> Row:
    for wanted in (
        is_whole,
        lambda row: "made" not in row["convention"],
        lambda row: row["origin"] == "measured",
        lambda row: row["precision"] == precision,
        lambda row: prompts is not None and prompts_of(row) == prompts,
        lambda row: row["value"] is not None,
    ):
        rows = [row for row in rows if wanted(row)] or rows
    if len(sets := sorted({str(prompts_of(row)) for row in rows})) > 1:
        asked = f", not with {prompts}" if prompts is not None else ""
        raise DataError(
            f"{model}: {term} was measured with the prompts {', '.join(sets)}{asked}: say which "
            "(--prompts NAME)"
        )
    for name, title in {**WAYS, **_WAYS_OF_ANSWERS}.items():
        if len(ways := ways_of(rows, name)) > 1:
            listed = ", ".join(f"{' '.join(way.split())} (run {run})" for way, run in ways.items())
            raise DataError(
                f"{model}: {term} was measured with several {title}: {listed}; these are different numbers: "
                "move the folders of the runs that are not wanted out of the results"
            )
    return max(rows, key=lambda row: run_order(row["run_id"]))


def ways_of(rows: Sequence[Row], name: str) -> dict[str, str]:
    """{value of one part of the convention: a run with it}. Rows without a value agree with any."""
    ways: dict[str, str] = {}
    for row in rows:
        convention, recipe = row["convention"], row["recipe"]
        if name == "annotations" and recipe.get(name):  # compared by digest
            way = " ".join(filter(None, (convention.get(name), recipe[name][:12])))
            ways.setdefault(way, row["run_id"])
        elif name == "fit":
            if (fit := fit_in_words(row)) and _is_fitted(row):
                ways.setdefault(fit, row["run_id"])
        elif name in convention:
            ways.setdefault(str(convention[name] or "none"), row["run_id"])
    return ways


def fit_in_words(row: Row) -> str | None:
    """The training images that scores of the row's run were fitted on: "train 1a2b3c4d, 7 of each class"."""
    fit = row["convention"].get("fit")
    return fit and f"{fit['data']} {fit['sha256'][:8]}, {fit['images_per_class']} of each class"


def _is_fitted(row: Row) -> bool:
    """Whether the row's own number rests on training images: others of its run do not depend on them."""
    kind, _, score = (row["slice"] or "").partition(":")
    return kind == "score" and score in row["convention"]["fit_convention"]


def _cell(model: str, column: Column, by_term: Mapping[Term, Row]) -> Cell:
    used, missing = [], []
    for term in column.terms:
        row = by_term.get(term)
        if row is not None and row["value"] is not None:
            used.append(row)
        else:
            missing.append(str(term) if row is None or not row["note"] else f"{term} ({row['note']})")
    if missing:
        return Cell(column, None, None, tuple(used), tuple(missing), [])
    value = sum([row["value"] for row in used]) / len(used)
    cell = Cell(column, value, _interval(column, value, used), tuple(used), (), [])
    # A published number is not compared with published numbers.
    comparable = len(used) > 1 or used[0]["origin"] == "measured"
    known = _published(model, column, used) if comparable else []
    return replace(cell, reference=compare(value, known, cell.part)) if known else cell


def _published(model: str, column: Column, rows: Sequence[Row]) -> list[Score]:
    term, *others = column.terms
    if others:
        known = lookup(model, "curation", "", column.key)
    else:
        known = lookup(model, term.task, term.dataset, term.metric, term.slice)
    return [score for score in known if all(score.agrees(row["convention"]) for row in rows)]


def _interval(column: Column, value: float, rows: Sequence[Row]) -> dict[str, Any] | None:
    if len(rows) == 1:
        return rows[0]["interval"] and {**rows[0]["interval"]}
    numbers = [(row["value"], row["interval"]) for row in rows]
    known = [(value, limits) for value, limits in numbers if value is not None and limits is not None]
    if len(known) < len(rows) or len({limits["level"] for _, limits in known}) > 1:
        return None
    first = known[0][1]
    down = [max(own - limits["lo"], 0.0) for own, limits in known]
    up = [max(limits["hi"] - own, 0.0) for own, limits in known]
    # Data sets with their own images err independently: half-widths add up as squares (MOVER, Zou & Donner
    # 2008). Rows that share images err together: the mean half-width is an upper bound.
    combine = sum if column.shared else lambda widths: math.hypot(*widths)
    return {
        "lo": value - combine(down) / len(rows),
        "hi": value + combine(up) / len(rows),
        "level": first["level"],
        "method": SHARED if column.shared else INDEPENDENT,
    }
