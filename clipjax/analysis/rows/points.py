"""Models as points of two numbers.

    points(rows, x, y)    # one Point per model that has both

`Cell.missing` tells why a model is not a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipjax.analysis.rows.cells import Cell, Column, RowIndex, cells_of, prompts_of
from clipjax.analysis.rows.groups import Group, group_of
from clipjax.results.row import Row


@dataclass(frozen=True)
class Point:
    """A model's two numbers; both cells have a value.

    `facts`: `model_facts` of its rows; `points_of_prompts` adds "prompts".
    """

    model: str
    facts: Mapping[str, Any]
    x: Cell
    y: Cell


def points(
    rows: Iterable[Row] | RowIndex,
    x: Column,
    y: Column,
    *,
    models: Iterable[str] | None = None,
    prompts: str | None = None,
    precision: str = "parity",
) -> list[Point]:
    """The models that have both numbers, by name. Raises DataError as `cells_of`."""
    table = cells_of(rows, (x, y), models=models, prompts=prompts, precision=precision)
    return [
        Point(model, across.rows[0]["model_facts"], across, up)
        for model, (across, up) in sorted(table.items())
        if across.value is not None and up.value is not None
    ]


def points_of_prompts(
    rows: Iterable[Row] | RowIndex,
    x: Column,
    y: Column,
    *,
    prompts: Sequence[str] | None = None,
    precision: str = "parity",
) -> list[Point]:
    """A point per model and prompt set with both numbers, set by set; default all sets, by name."""
    of_set: dict[str | None, list[Row]] = {}
    for row in rows:
        of_set.setdefault(prompts_of(row), []).append(row)
    wanted = sorted(name for name in of_set if name is not None) if prompts is None else prompts
    return [
        replace(point, facts={**point.facts, "prompts": name})
        for name in wanted
        for point in points(of_set.get(name, []), x, y, precision=precision)
    ]


def grouped(some: Iterable[Point], scheme: Sequence[Group]) -> tuple[dict[str, list[Point]], list[Point]]:
    """{key of every group: its points}, and the points in no group."""
    by_group: dict[str, list[Point]] = {group.key: [] for group in scheme}
    rest = []
    for point in some:
        group = group_of(point.facts, scheme)
        (rest if group is None else by_group[group.key]).append(point)
    return by_group, rest


def coordinates(some: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, and the number of images of each (NaN if unknown), float64 [N]."""
    columns = (
        [point.x.value for point in some],
        [point.y.value for point in some],
        [point.x.n for point in some],
        [point.y.n for point in some],
    )
    x, y, n_x, n_y = (np.array(column, np.float64) for column in columns)
    return x, y, n_x, n_y
