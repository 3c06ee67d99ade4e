"""Published numbers: what others measured of the registered models, beside ours. Imports no JAX.

    lookup("vit_b_32-openai", "zeroshot", "imagenet_val", "top1")   # -> the scores of every source

The numbers lie in configs/reference_scores.csv, one a line; configs/reference_sources.toml says where each
source's come from and how they were measured. A published number is compared with a result only if both are
of the same model (at its own image size), task, data set, part of it and metric, and if what is known of the
conventions of both agrees: prompt set, classes and how scores were projected to them, ID set, the model whose
category lists were used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.results.completeness import in_words, noted
from clipjax.storage.reading import read_csv, read_toml

Row = dict[str, Any]

NONE = "none"  # in a convention: that a row says null
FIELDS = ("model", "task", "dataset", "slice", "metric", "value", "source", "convention", "note")


@dataclass(frozen=True)
class Score:
    """One published number.

    Attributes:
        model: id of a registered model, or `llava:...` and `tuned:...` for the paper's models that are none.
        task, dataset, slice, metric: as result rows have them. The columns of the paper's Table IV that
            average several data sets have the task "curation" and no data set.
        value: in our units: accuracies are fractions.
        source: a key of configs/reference_sources.toml.
        convention: what else must agree, `key=value; key=value` of a result row's convention; the value
            "none" is null there. None for nothing.
        note: what else a reader needs.
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
        """Whether nothing that is known of a result contradicts the score's convention."""
        return all(convention.get(key, value) == value for key, value in self.pairs.items())

    @functools.cached_property
    def pairs(self) -> dict[str, str | None]:
        """`convention` as a result row has it; ValueError if it is not of that form."""
        found: dict[str, str | None] = {}
        for pair in filter(None, (self.convention or "").split("; ")):
            key, equals, value = pair.partition("=")
            if not (key and equals and value) or key in found:
                raise ValueError(f"the convention {self.convention!r} is not `key=value; key=value`")
            found[key] = None if value == NONE else value
        return found

    @property
    def key(self) -> tuple[str, str, str, str | None, str]:
        return (self.model, self.task, self.dataset, self.slice, self.metric)


@functools.cache
def sources() -> dict[str, dict[str, Any]]:
    """configs/reference_sources.toml."""
    return read_toml(config_dir() / "reference_sources.toml")


@functools.cache
def scores() -> tuple[Score, ...]:
    """Every published number, in file order.

    Raises:
        DataError: a line without a number, whose convention cannot be read, with a source that is not
            described, or that another line of the same source contradicts; the line is named.
    """
    path = config_dir() / "reference_scores.csv"
    found: dict[tuple[Any, ...], Score] = {}
    for line, cells in enumerate(read_csv(path), start=2):
        if cells["source"] not in sources():
            raise DataError(f"{path}:{line}: reference_sources.toml has no source {cells['source']!r}")
        try:
            score = _score(cells)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {error}") from None
        if (identity := (*score.key, score.source, score.convention)) in found:
            raise DataError(f"{path}:{line}: {score.source} gives this number twice; keep one of the lines")
        found[identity] = score
    return tuple(found.values())


def lookup(
    model: str,
    task: str,
    dataset: str,
    metric: str,
    part: str | None = None,
    convention: Mapping[str, Any] | None = None,
) -> list[Score]:
    """What is published of one number, in file order.

    Args:
        part: the slice; None for the whole data set.
        convention: of the number to compare with, e.g. {"prompts": "openai_80"}; scores of another one are
            left out. What it does not name is not compared.
    """
    known = _by_key().get((model, task, dataset, part, metric), ())
    return [score for score in known if score.agrees(convention or {})]


def with_references(rows: Sequence[Row]) -> list[Row]:
    """The rows with `reference` filled in where something is published of their number."""
    return [{**row, "reference": references(row)} for row in rows]


def references(row: Row) -> list[dict[str, Any]] | None:
    """The field `reference` of a result row: what is published of its number; None if nothing is."""
    if row["value"] is None or row["origin"] != "measured" or row["model_facts"].get("resized"):
        return None
    rest = (row[name] for name in ("task", "dataset", "metric", "slice", "convention"))
    known = lookup(published_model(row), *rest)
    return compare(row["value"], known, in_words(row)) or None


def published_model(row: Row) -> str:
    """The model whose published numbers stand beside a row: that of its facts, where it is not fine-tuned."""
    facts = row["model_facts"]
    return row["model"] if facts.get("lineage") else facts.get("facts_of") or row["model"]


def compare(value: float, known: Sequence[Score], of: str | None = None) -> list[dict[str, Any]]:
    """Each published number with its source, its note, and how far `value` is from it.

    Args:
        of: which images `value` is of, where they are not the whole data set: the note says it first.
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
        model, task, dataset, part or None, metric, number, source, convention or None, note or None
    )
    _ = score.pairs  # a wrong one is said now
    return score


@functools.cache
def _by_key() -> Mapping[tuple[str, str, str, str | None, str], list[Score]]:
    table: dict[tuple[str, str, str, str | None, str], list[Score]] = {}
    for score in scores():
        table.setdefault(score.key, []).append(score)
    return table
