"""The report page's data: result rows as one compact JSON object.

    report_data(rows, "results")

A column per number (task, data set, slice, metric), and per way of measuring it where a model has several.
Shared values are stored once in `interned`; others refer to them by index (-1 for null). `interned` holds an
object as a list: the index of its keys, then the index of each value.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clipjax.analysis.figures.style import COLOURS, MARKERS
from clipjax.analysis.figures.yours import YOURS, is_own
from clipjax.analysis.report.axes import about, first_axes
from clipjax.analysis.rows.cells import WAYS, Term, term_of, ways_of
from clipjax.analysis.rows.curation import columns as curation_columns
from clipjax.analysis.rows.groups import Group, group_of, groups, schemes
from clipjax.results.completeness import in_words, is_whole
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.published.references import sources
from clipjax.results.row import Row
from clipjax.results.rows import of_people, without_gc
from clipjax.results.store import run_order
from clipjax.results.tables import model_name

# Slices left out: a thousand classes would be a thousand columns.
LEFT_OUT = ("class:", "bin:")
ASPECTS = ("prompts", "precision", *WAYS)
_ALSO_ELSEWHERE = ("precision", "annotations")  # aspects that a row has beside its convention
LEARNED = "prompts"  # the aspect that may be part of the model
NOT_APPLICABLE = "not applicable"  # "prompts" in a classifier's convention
SOURCE = "train_source"
HASH = 16  # hexadecimal digits of a recipe hash

Variant = tuple[tuple[str, str], ...]
"""How a column's numbers were measured, for aspects with several ways: (aspect, way)."""


@without_gc()
def report_data(
    rows: Sequence[Row], name: str, *, parts: bool = True, highlight: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that the page shows, without rows of people. Chooses among rows as `cells_of`.

    Args:
        parts: include slices (factors, scores, ...), but never single classes or confidence bins.
        highlight: models to draw as stars with names.
    """
    rows = [row for row in with_distinct_names(rows) if not of_people(row)]
    kept = [row for row in rows if not _is_left_out(row["slice"], parts)]
    models = {model_name(row): row["model_facts"] for row in kept}
    index = {model: k for k, model in enumerate(models)}
    interner, columns, cells, runs = Interner(), [], Records(), Records()
    for term, variant, by_model in _columns(kept):
        for model, some in by_model.items():
            row = some[0] if len(some) == 1 else max(some, key=_preferred)
            of = {"model": index[model], "column": len(columns), "run": runs.once(_run(row, interner))}
            cells.add(of | _cell(row, interner))
        columns.append({**term._asdict(), "ways": list(map(list, variant)), "headline": _is_headline(term)})
    measured = cells.columns
    return {
        "name": name,
        "rows": len(rows),
        "left_out": len(rows) - len(kept),
        "left_out_what": "single classes and confidence bins" if parts else "parts of data sets",
        "models": list(models),
        "facts": [interner.object(facts) for facts in models.values()],
        "columns": columns,
        "axes": _axes(columns, measured),
        "cells": measured,
        "runs": runs.columns,
        "highlight": [index[model] for model in highlight if model in index],
        "schemes": list(_schemes(list(models.values()))),
        "sources": {name: source["title"] for name, source in sources().items()},
        "interned": interner.values,
    }


def _axes(columns: Sequence[Mapping[str, Any]], cells: Mapping[str, list[Any]]) -> tuple[int, int] | None:
    measured: list[set[int]] = [set() for _ in columns]
    for model, column, value in zip(*(cells.get(name, []) for name in ("model", "column", "value"))):
        if value is not None:
            measured[column].add(model)
    return first_axes(columns, measured, about(column["dataset"] for column in columns))


class Interner:
    """JSON values, each stored once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._index: dict[Any, int] = {}
        self._objects: dict[str, int] = {}

    def of(self, value: Any) -> int:
        """-1 for null."""
        if value is None:
            return -1
        return self._at((None, value) if isinstance(value, str) else repr(value), value)

    def object(self, value: Mapping[str, Any] | None) -> int:
        """Keys and values are interned too; -1 for null."""
        if value is None:
            return -1
        known = repr(value)  # faster than a look at each of its values
        if (at := self._objects.get(known)) is None:
            names = tuple(value)
            parts = (self._at(names, names), *map(self.of, value.values()))
            at = self._objects[known] = self._at(parts, parts)
        return at

    def _at(self, key: Any, value: Any) -> int:
        # Keys never collide: (None, text), tuples of names or of indices, `repr` of the rest.
        if (at := self._index.get(key)) is None:
            at = self._index[key] = len(self.values)
            self.values.append(list(value) if isinstance(value, tuple) else value)
        return at


class Records:
    """Records of the same keys, as columns."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._records: list[tuple[Any, ...]] = []
        self._index: dict[tuple[Any, ...], int] = {}

    @property
    def columns(self) -> dict[str, list[Any]]:
        return dict(zip(self._names, map(list, zip(*self._records, strict=True))))

    def add(self, record: Mapping[str, Any]) -> None:
        self._names = self._names or tuple(record)
        self._records.append(tuple(record.values()))

    def once(self, record: Mapping[str, Any]) -> int:
        key = tuple(record.values())
        if (at := self._index.get(key)) is None:
            at = self._index[key] = len(self._index)
            self.add(record)
        return at


def _is_left_out(part: str | None, parts: bool) -> bool:
    if part is None:
        return False
    return not parts or any(segment.startswith(LEFT_OUT) for segment in part.split("/"))


def _columns(rows: Iterable[Row]) -> Iterator[tuple[Term, Variant, dict[str, list[Row]]]]:
    terms: dict[Term, list[Row]] = {}
    for row in rows:
        terms.setdefault(term_of(row), []).append(row)
    known = [*(term for column in curation_columns() for term in column.terms), *terms]
    tasks = list(dict.fromkeys(term.task for term in known))
    sets = {of: k for k, of in enumerate(dict.fromkeys((term.task, term.dataset) for term in known))}
    for term in sorted(terms, key=lambda term: (tasks.index(term.task), sets[term.task, term.dataset])):
        for variant, some in _variants(terms[term]).items():
            by_model: dict[str, list[Row]] = {}
            for row in some:
                by_model.setdefault(model_name(row), []).append(row)
            yield term, variant, by_model


def _variants(rows: Sequence[Row]) -> dict[Variant, list[Row]]:
    """Rows of one number by way, for aspects in which some model has several.

    A row without a way is in every variant; so are prompts learned with a model (CoOp).

        rows of A with prompts p and q, B with p, C (CoOp) with its own
        p: A, B, C        q: A, C
    """
    stated = list(map(_ways, rows))
    models = list(map(model_name, rows))
    several: dict[str, list[str]] = {}
    for name in ASPECTS:
        pairs = {(model, ways[name]): None for model, ways in zip(models, stated) if name in ways}
        counts = Counter(model for model, _ in pairs)
        if shared := dict.fromkeys(way for model, way in pairs if counts[model] > 1):
            several[name] = list(shared if name == LEARNED else dict.fromkeys(way for _, way in pairs))
    by_variant: dict[Variant, list[Row]] = {}
    for choice in itertools.product(*several.values()):
        variant = tuple(zip(several, choice))
        agree = [all(_agrees(name, way, ways, several) for name, way in variant) for ways in stated]
        if any(agree):
            by_variant[variant] = list(itertools.compress(rows, agree))
    return by_variant


def _agrees(name: str, way: str, ways: Mapping[str, str], several: Mapping[str, Sequence[str]]) -> bool:
    """Whether the row was measured in this way, records no way, or has prompts of its own model."""
    own = name == LEARNED and ways.get(name) not in several[name]
    return own or ways.get(name, way) == way


def _ways(row: Row) -> dict[str, str]:
    """The row's way of each aspect that has one."""
    named = [name for name in ASPECTS if name in row["convention"] or name in _ALSO_ELSEWHERE]
    return {name: way for name in named if (way := _way(row, name)) is not None}


def _way(row: Row, name: str) -> str | None:
    if name in WAYS:
        return next(iter(ways_of([row], name)), None)
    way = row["precision"] if name == "precision" else row["convention"].get(name)
    return None if str(way).startswith(NOT_APPLICABLE) else way


def _preferred(row: Row) -> tuple[Any, ...]:
    # As in `cells_of`; the column fixes prompts and precision.
    return is_whole(row), row["origin"] == "measured", row["value"] is not None, run_order(row["run_id"])


def _is_headline(term: Term) -> bool:
    terms = (one for column in curation_columns() for one in column.terms)
    return any((term.task, term.metric, term.slice) == (one.task, one.metric, one.slice) for one in terms)


def _run(row: Row, interner: Interner) -> dict[str, Any]:
    plain = ("origin", "task_version", "sample", "skipped", "precision", "per_device_batch", "xla_flags")
    return {
        "run_id": interner.of(row["run_id"]),
        "recipe_hash": row["recipe_hash"][:HASH],
        **{name: interner.of(row[name]) for name in plain},
        **{name: interner.object(row[name]) for name in ("device", "versions", "recipe")},
        "part": interner.of(in_words(row)),
        "protocol": interner.of(row.get("protocol")),
        "git_revision": interner.of(row["git_revision"]),
        "wall_time": row["wall_time"] and _rounded(row["wall_time"]),
    }


def _cell(row: Row, interner: Interner) -> dict[str, Any]:
    interval = row["interval"]
    return {
        "value": _rounded(row["value"]),
        "lo": interval and _rounded(interval["lo"]),
        "hi": interval and _rounded(interval["hi"]),
        "interval": interner.of(interval and [interval["level"], interval["method"]]),
        "n": row["n"],
        "convention": interner.object(row["convention"]),
        "reference": interner.of(row["reference"]),
        "note": interner.of(row["note"]),
        "aggregates": interner.of(row["aggregates"]),
    }


def _rounded(value: float | None) -> float | None:
    # More than a page shows, a third of a float's length.
    return None if value is None else float(f"{value:.6g}")


def _schemes(facts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for name in schemes():
        scheme = groups(name)
        of_models = [group_of(one, scheme) for one in facts]
        if any(of_models):
            yield _scheme(name.replace("_", " "), scheme, of_models, facts)
    sources = list(dict.fromkeys(str(one[SOURCE]) for one in facts if one.get(SOURCE)))
    own = {
        source: Group(source, source, COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)], True, {})
        for k, source in enumerate(sources)
    }
    by_source = [own.get(str(one.get(SOURCE))) for one in facts]
    yield _scheme("training data", list(own.values()), by_source, facts)


def _scheme(
    title: str, scheme: Sequence[Group], of: Sequence[Group | None], facts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A scheme of groups in JSON types: how each is drawn, and the number of each model's group, -1 for none.

    The user's own models that are in no group make a last one, whose number is `yours`.
    """
    of = [YOURS if group is None and is_own(one) else group for group, one in zip(of, facts)]
    shown, whole = ("title", "colour", "marker", "filled"), [*scheme, *([YOURS] if YOURS in of else [])]
    return {
        "title": title,
        "groups": [{name: getattr(group, name) for name in shown} for group in whole],
        "of": [-1 if group is None else whole.index(group) for group in of],
        "yours": len(scheme) if YOURS in of else -1,
    }
