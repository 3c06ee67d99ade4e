"""The first axes of the report's scatter plot: held-out accuracy across, the same metric on a shifted set up.

first_axes(columns, measured, about(datasets))    # (0, 3), or None if no two numbers belong together
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from clipjax.data.cards import read_card
from clipjax.errors import ClipjaxError

ACCURACIES = ("top1", "accuracy", "pm0")  # before any other metric

Column = Mapping[str, Any]


class DataSetRoles(NamedTuple):
    """Data sets that cards name as in-distribution, and those with images to train or choose on."""

    held_out: Collection[str]
    training: Collection[str]


def about(datasets: Iterable[str]) -> DataSetRoles:
    """Groups from the cards that clipjax knows; a data set without one is in neither."""
    held_out, training = set(), set()
    families: dict[str, list[str]] = {}
    for name in datasets:
        families.setdefault(name.partition(":")[0], []).append(name)
    for names in families.values():
        try:
            card = read_card(names[0])  # the members of a family agree
        except ClipjaxError:
            continue
        if card.id:
            held_out.add(card.id)
        if card.split:
            training.update(names)
    return DataSetRoles(held_out, training)


def first_axes(
    columns: Sequence[Column], measured: Sequence[Collection[int]], sets: DataSetRoles
) -> tuple[int, int] | None:
    """The columns of the first axes: one metric, at least one model in common. None without such a pair.

    Across: a whole held-out set, else any whole set. Up: another set, or else a part of it. Of such pairs
    it is the one with most models in common.

    Args:
        columns: as in `report_data`.
        measured: models with a value, per column.
    """
    metrics = dict.fromkeys(column["metric"] for column in columns)
    for metric in sorted(metrics, key=lambda name: (*(name != one for one in ACCURACIES),)):
        if (pair := _pair(metric, columns, measured, sets)) is not None:
            return pair
    return None


def _pair(
    metric: str, columns: Sequence[Column], measured: Sequence[Collection[int]], sets: DataSetRoles
) -> tuple[int, int] | None:
    of_metric = [
        k
        for k, column in enumerate(columns)
        if column["metric"] == metric and column["dataset"] not in sets.training and measured[k]
    ]
    pairs = [
        (columns[x]["dataset"] not in sets.held_out, *order, -len(measured[x]), x, y)
        for x in of_metric
        if columns[x]["slice"] is None
        for *order, y in _shifted(x, of_metric, columns, measured)
    ]
    return min(pairs)[-2:] if pairs else None


def _shifted(
    x: int, others: Iterable[int], columns: Sequence[Column], measured: Sequence[Collection[int]]
) -> Iterator[tuple[Any, ...]]:
    """The columns that may go up against x, each as (order..., column): the least is best."""
    across = columns[x]
    for y in others:
        up, shared = columns[y], len(set(measured[x]) & set(measured[y]))
        same_set, same_task = up["dataset"] == across["dataset"], up["task"] == across["task"]
        if not shared or (same_set and (up["slice"] is None or not same_task)):
            continue
        part = up["slice"] is not None
        yield same_set, not same_task, part, -shared, up["ways"] != across["ways"], not up["headline"], y
