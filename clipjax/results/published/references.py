"""Published numbers of registered models, beside ours. Imports no JAX.

    lookup("vit_b_32-openai", "zeroshot", "imagenet_val", "top1")   # -> the scores of every source

A result is compared with numbers of the same model (at its own image size), task, data set, slice and metric
whose known conventions agree.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipjax.config import config_dir
from clipjax.data.card_files import CardFile
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.results.completeness import in_words, noted
from clipjax.results.row import AnyRow, Fields, PublishedReference, Row
from clipjax.storage.reading import read_csv, read_toml
from clipjax.storage.records import read

_Number = tuple[Any, ...]
"""Model, task, data set, slice, metric."""

NONE = "none"  # in a convention: null in a row
FIELDS = ("model", "task", "dataset", "slice", "metric", "value", "source", "convention", "note")


@dataclass(frozen=True)
class Score:
    """One published number of configs/reference_scores.csv.

    Attributes:
        model: a registered id, or `tuned:...` for the paper's unregistered ones.
        task: as in result rows; "curation" for columns of the paper's Table IV that average data sets.
        dataset: as in result rows; none for such columns.
        slice: as in result rows.
        metric: as in result rows.
        value: accuracies are fractions.
        source: a key of configs/reference_sources.toml.
        convention: what must agree, as `key=value; key=value` of a row's convention; "none" for null.
    """

    model: str
    task: str
    dataset: str
    slice: str | None
    metric: str
    value: float
    source: str
    convention: str | None = None
    note: str | None = None

    def agrees(self, convention: Mapping[str, Any]) -> bool:
        """Whether the result's convention contradicts the score's nowhere."""
        return all(convention.get(key, value) == value for key, value in self.pairs.items())

    @functools.cached_property
    def pairs(self) -> dict[str, str | None]:
        """`convention` as in a row. Raises ValueError if malformed."""
        pairs: dict[str, str | None] = {}
        for pair in filter(None, (self.convention or "").split("; ")):
            key, equals, value = pair.partition("=")
            if not (key and equals and value) or key in pairs:
                raise ValueError(f"the convention {self.convention!r} is not `key=value; key=value`")
            pairs[key] = None if value == NONE else value
        return pairs

    @property
    def key(self) -> tuple[str, str, str, str | None, str]:
        return (self.model, self.task, self.dataset, self.slice, self.metric)


@functools.cache
def sources() -> dict[str, dict[str, Any]]:
    return read_toml(config_dir() / "reference_sources.toml")


def files_of(source: str) -> tuple[CardFile, ...]:
    """The files in which a source publishes its numbers.

    Raises:
        UsageError: an unknown source, or one without files.
        DataError: a wrong file.
    """
    known = [name for name, record in sources().items() if "files" in record]
    known_name("source", source, known)
    where = f"reference_sources.toml: {source}: files"
    return tuple(read(CardFile, record, where) for record in sources()[source]["files"])


@functools.cache
def scores() -> tuple[Score, ...]:
    """The published numbers of configs/reference_scores.csv, in file order.

    Raises:
        DataError: no number, a malformed convention, an unknown source, or a number twice; names the line.
    """
    path = config_dir() / "reference_scores.csv"
    by_identity: dict[tuple[Any, ...], Score] = {}
    for line, cells in enumerate(read_csv(path), start=2):
        if cells["source"] not in sources():
            raise DataError(f"{path}:{line}: reference_sources.toml has no source {cells['source']!r}")
        try:
            score = _score(cells)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}") from None
        if (identity := (*score.key, score.source, score.convention)) in by_identity:
            raise DataError(f"{path}:{line}: {score.source} gives this number twice; keep one of the lines")
        by_identity[identity] = score
    return tuple(by_identity.values())


def lookup(
    model: str,
    task: str,
    dataset: str,
    metric: str,
    part: str | None = None,
    convention: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Published numbers in file order. `part`: the slice; None for the whole data set.

    `convention` of our number leaves out scores of another; absent keys are not compared.
    """
    known = _by_key().get((model, task, dataset, part, metric), ())
    return [score for score in known if score.agrees(convention or {})]


def with_references(rows: Sequence[Fields]) -> list[Fields]:
    return [{**row, "reference": references(row)} for row in rows]


def references(row: AnyRow) -> list[PublishedReference] | None:
    if not _is_compared(row):
        return None
    rest = (row[name] for name in ("task", "dataset", "metric", "slice", "convention"))
    known = lookup(published_model(row), *rest)
    return compare(row["value"], known, in_words(row)) or None


def with_imported(rows: list[Row]) -> list[Row]:
    """Measured rows beside the published numbers in their folder, which a licence may keep out of clipjax.

    The list itself, if it has no such numbers.
    """
    others = [row for row in rows if row["origin"] == "published" and row["value"] is not None]
    wanted = {_number(row) for row in rows if _is_compared(row)} if others else ()
    imported: dict[_Number, list[Score]] = {}
    for row in others:
        if _number(row) in wanted:
            imported.setdefault(_number(row), []).append(_imported(row))
    return [_beside(row, imported) for row in rows] if imported else rows


def _number(row: Row) -> _Number:
    return (published_model(row), *(row[name] for name in ("task", "dataset", "slice", "metric")))


def _imported(row: Row) -> Score:
    convention = {k: v for k, v in row["convention"].items() if k != "source" and isinstance(v, str | None)}
    pairs = "; ".join(f"{name}={NONE if value is None else value}" for name, value in convention.items())
    names = ("model", "task", "dataset", "slice", "metric", "value", "note")
    fields: Fields = {name: row[name] for name in names}
    return Score(**fields, source=str(row["convention"].get("source")), convention=pairs or None)


def _beside(row: Row, imported: Mapping[_Number, Sequence[Score]]) -> Row:
    own, value = row["reference"] or [], row["value"] if _is_compared(row) else None
    if value is None:
        return row
    there = {one["source"] for one in own}
    known = [s for s in imported.get(_number(row), ()) if s.source not in there]
    known = [score for score in known if score.agrees(row["convention"])]
    return {**row, "reference": [*own, *compare(value, known, in_words(row))] or None}


def _is_compared(row: AnyRow) -> bool:
    measured = row["value"] is not None and row["origin"] == "measured"
    return measured and not row["model_facts"].get("resized")


def published_model(row: AnyRow) -> str:
    """The model of the row's facts, unless it is fine-tuned."""
    facts = row["model_facts"]
    return row["model"] if facts.get("lineage") else facts.get("facts_of") or row["model"]


def compare(value: float, known: Sequence[Score], of: str | None = None) -> list[PublishedReference]:
    """Each number with source, note, and `value` minus it.

    `of`: the images of `value`, if not all; the note starts with them.
    """
    return [
        {"value": s.value, "source": s.source, "difference": value - s.value, "note": noted(s.note, of)}
        for s in known
    ]


def _score(cells: Mapping[str, str]) -> Score:
    model, task, dataset, part, metric, value, source, convention, note = (cells[name] for name in FIELDS)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"the value {value!r} is not a number") from None
    score = Score(
        model=model,
        task=task,
        dataset=dataset,
        slice=part or None,
        metric=metric,
        value=number,
        source=source,
        convention=convention or None,
        note=note or None,
    )
    _ = score.pairs  # raises now if the convention is malformed
    return score


@functools.cache
def _by_key() -> Mapping[tuple[str, str, str, str | None, str], list[Score]]:
    table: dict[tuple[str, str, str, str | None, str], list[Score]] = {}
    for score in scores():
        table.setdefault(score.key, []).append(score)
    return table
