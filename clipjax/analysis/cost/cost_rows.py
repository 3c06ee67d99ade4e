"""Costs as rows of the data set "cost", so that figures and tables take them like any other number.

index = RowIndex([*rows, *cost_rows(rows, costs.find("operations"))])     # has "cost/operations"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from clipjax.analysis.cost.model_costs import Cost
from clipjax.results.row import Row
from clipjax.results.tables import model_name

COST = "cost"  # task and data set
AXIS = f"{COST}/"  # what the name of a cost begins with where it is an axis
_ABSENT = ("interval", "n", "aggregates", "sample", "skipped", "reference")  # what a cost has none of
_OF_DATA = ("part", "id_part", "folder", "protocol")


def cost_rows(rows: Iterable[Row], cost: Cost) -> Iterator[Row]:
    """A row for each model that has the cost. They are never stored."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(model_name(row), row)
    metric, _, part = cost.name.partition(" ")
    for model in (model for model in first if model in cost.numbers):
        kept: dict[str, Any] = {k: each for k, each in first[model].items() if k not in _OF_DATA}
        kept |= {"task": COST, "dataset": COST, "metric": metric, "slice": part or None}
        kept |= {"value": cost.numbers[model], "note": cost.marks.get(model), "recipe": {}, "convention": {}}
        yield cast(Row, kept | dict.fromkeys(_ABSENT))
