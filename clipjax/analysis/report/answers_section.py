"""The report's answers: for an image its options, the truth, and what each model chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.sections import Section, sortable
from clipjax.errors import DataError, counted
from clipjax.results.row import Row
from clipjax.results.store import run_order
from clipjax.results.tables import model_name

TASK = "multiple_choice"
COLUMNS = ("id", "options", "truth", "answer", "correct")
SHOWN = 40  # images of a data set and maker of lists: those on which the models differ most

Images = Callable[[str], pa.Table]
"""A run's id -> its per-image table."""


class _Asked(NamedTuple):
    """A question. `answers`: model -> its answer, and whether that is right."""

    options: list[str]
    truth: str
    answers: dict[str, tuple[str, bool]]


def answers_section(rows: Sequence[Row], images: Images) -> Section:
    """A table for each data set and maker of lists; the newest run of a model counts."""
    runs: dict[tuple[str, str], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: run_order(row["run_id"])):
        if row["task"] == TASK and row["origin"] == "measured" and row["value"] is not None:
            lists = str(row["convention"].get("annotations") or "")
            runs.setdefault((row["dataset"], lists), {})[model_name(row)] = row["run_id"]
    tables = [_table(*key, by_model, images) for key, by_model in sorted(runs.items())]
    return Section("Answers", joined(*tables))


def _table(dataset: str, lists: str, runs: Mapping[str, str], images: Images) -> Html | None:
    """A run's answers; None if it has no per-image table."""
    asked: dict[str, _Asked] = {}
    models = [model for model, run_id in sorted(runs.items()) if _read(run_id, model, images, asked)]
    if not models:
        return None
    order = sorted(asked, key=lambda name: (-_split(asked[name]), name))[:SHOWN]
    lines = joined(*(_line(name, asked[name], models) for name in order))
    of = f", lists of {lists}" if lists else ""
    which = "" if len(order) == len(asked) else f", those on which the models differ most, of {len(asked):,}"
    caption = f"{dataset}{of}: {counted(len(order), 'image')}{which}. The truth is in bold."
    name = "answers-" + "".join(each if each.isalnum() else "-" for each in f"{dataset}-{lists}")
    return sortable(name, caption, ["image", "options", *models], lines)


def _read(run_id: str, model: str, images: Images, asked: dict[str, _Asked]) -> bool:
    """Add a run's answers; False without a table of them."""
    try:
        table = images(run_id)
    except DataError:  # absent or damaged: the rows stand without it
        return False
    if not set(COLUMNS) <= set(table.column_names):
        return False
    for name, options, truth, answer, correct in zip(*(table[each].to_pylist() for each in COLUMNS)):
        one = asked.setdefault(name, _Asked(options, truth, {}))
        one.answers[model] = ("" if answer is None else answer, bool(correct))
    return True


def _split(one: _Asked) -> int:
    """The number of models in the minority."""
    right = sum(correct for _, correct in one.answers.values())
    return min(right, len(one.answers) - right)


def _line(name: str, one: _Asked, models: Sequence[str]) -> Html:
    options: list[Any] = []
    for k, option in enumerate(one.options):
        options += [" · " if k else None, tag("b", option) if option == one.truth else option]
    cells = [tag("td", name, class_="fact"), tag("td", *options, data_value=one.truth)]
    for model in models:
        answer, correct = one.answers.get(model, (None, False))
        sign = None if answer is None else tag("span", "✓ " if correct else "✗ ")
        cells.append(tag("td", sign, "–" if answer is None else answer, data_value=str(int(correct))))
    return tag("tr", *cells)
