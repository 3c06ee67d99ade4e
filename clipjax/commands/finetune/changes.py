"""The before/after table of `clipjax finetune --evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipjax.commands.shared.output import print_table, say
from clipjax.errors import DataError, counted

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


def refuse_failed(failed: Sequence[str], runs: int) -> None:
    """Raise DataError if some of the runs of a suite failed; each of `failed` is one with its reason."""
    if failed:
        raise DataError(
            f"{len(failed)} of {counted(runs, 'evaluation')} failed: {failed[0]}; the models are written: "
            "mend it and run the same command again"
        )


def failed_runs(changes: Sequence[Change]) -> tuple[list[str], int]:
    """The arguments of `refuse_failed`: which tasks failed on which data sets, and the number of all."""
    runs = {f"{each.metric.task} on {each.dataset}": each for each in changes}
    return [f"{run} {each.note}" for run, each in runs.items() if each.n is None], len(runs)


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
