"""The before/after table of `clipjax finetune --evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipjax.commands.shared.output import print_table, say

if TYPE_CHECKING:
    from clipjax.finetune.before_after import Change


def print_changes(changes: Sequence[Change]) -> None:
    """Print the table of changes. A line is red if every seed lost, green if every seed gained."""
    seeds = max(len(change.after) for change in changes)
    titles = [
        *("task", "data set", "number", "n", "before", "after", "sd", "difference", "95 % interval"),
        *(["over seeds"] if seeds > 1 else []),
        *("p (Holm)", "verdict"),
    ]
    rows = [_cells(change, seeds) for change in changes]
    print_table(titles, rows, colours=[_COLOURS.get(change.verdict or "") for change in changes])
    if seeds > 1:
        say(
            f"\nafter: mean of {seeds} seeds; interval: from the lowest to the highest of their paired ones; "
            "over seeds: 95 % interval of the mean difference over images and seeds, both random"
        )


_COLOURS = {"lost": "red", "gained": "green"}


def _cells(change: Change, seeds: int) -> list[str]:
    def number(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    def interval(limits: tuple[float, float] | None) -> str:
        return "" if limits is None else f"[{limits[0]:+.4f}, {limits[1]:+.4f}]"

    chance = number(change.p_holm, ".2g")
    metric = change.metric
    return [
        *(metric.task, change.dataset, metric.title, "" if change.n is None else str(change.n)),
        *(number(change.before), number(change.mean), number(change.deviation)),
        *(number(change.difference, "+.4f"), interval(change.interval)),
        *([interval(change.over_seeds)] if seeds > 1 else []),
        *(chance, change.verdict or change.note or ""),
    ]
