"""`clipjax results table`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.results.listing import RowOptions
from clipjax.commands.shared.options import (
    OutFileOption,
    PrecisionOption,
    PromptSetOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import check_choice, check_form, emit
from clipjax.errors import DataError, UsageError

if TYPE_CHECKING:
    from clipjax.analysis.rows.cells import Cell
    from clipjax.analysis.rows.model_ranking import Place
    from clipjax.analysis.rows.pivot import Pivot

NAMED = 5  # at most this many numbers or columns of a note are listed


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    where: ResultsOptions
    which: RowOptions
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    ranks: Annotated[
        bool, typer.Option("--ranks", help="Beside each number, the ranks that its model may have.")
    ] = False
    form: Annotated[
        str, typer.Option("--format", "-f", help="Form of the output: table, markdown, latex or csv.")
    ] = "table"
    out: OutFileOption = None
    PANELS: ClassVar = {
        "Which numbers": ("every", "model", "task", "dataset", "metric", "prompts", "precision"),
        "Input and output": ("results", "ranks", "form", "out"),
    }


def table(options: TableOptions) -> None:
    r"""Print one metric as a table of models and data sets, with intervals; the best number is marked.

    Examples:

        clipjax results table --metric top1

        clipjax results table --metric "auroc score:mcm" --format latex \
            --out ood.tex

        clipjax results table --metric top1 --ranks
    """
    metrics = options.which.metric or []
    if len(metrics) != 1:
        raise UsageError("say which one metric the table is of: --metric top1")
    from clipjax.analysis.rows.pivot import FORMATS, export_pivot, pivot, pivot_cells
    from clipjax.data.labels import DEFAULT_PROMPTS
    from clipjax.results.rows import without_gc

    check_form(options.form, options.out, FORMATS)
    prompts, precision = options.prompts, options.precision
    with without_gc():
        rows = options.which.rows_but_metric(options.where.path)
        check_choice(rows, prompts=prompts, precision=precision)
        made = pivot(rows, metrics[0], prompts=prompts or DEFAULT_PROMPTS, precision=precision)
    if options.ranks:
        made = _with_ranks(made, options.where.path)
    for line in made.left_out:
        say(f"left out: {line}", err=True)
    if parts := made.parts:
        say(f"not of whole data sets: {_some(parts)}", err=True)
    if made.not_alike:
        say(f"not measured alike, so that none is marked as the best: {_some(made.not_alike)}", err=True)
    if options.form != "table":
        emit(export_pivot(made, options.form), options.out)
        return
    print_table(*pivot_cells(made))
    if made.unmarked:
        say(made.unmarked, err=True)
    if any(best is not None for best in made.best):
        say("* the best of its column", err=True)


def _with_ranks(table: Pivot, folder: Path) -> Pivot:
    """The table with the ranks of the runs that it shows; says which of its numbers have none, and why.

    Raises DataError if none can be ranked, UsageError if the metric is not a share of images.
    """
    from clipjax.evaluation.comparison.ranking import rank_models

    runs = {run: None for cells in table.lines.values() for cell in cells if (run := _measured_run(cell))}
    if not runs:
        raise DataError(f"no number of {table.metric} was measured here: ranks need per-image tables")
    ranking = rank_models(folder, table.metric, runs=[*runs])
    places = {(place.task, place.dataset): place for place in ranking.places}
    ranks = {}
    for k, column in enumerate(table.columns):
        place = places.get(column.terms[0][:2])
        if place is None:
            why = ranking.not_ranked.get(" on ".join(column.terms[0][:2]), "no number was measured here")
            say(f"{column.title} is not ranked: {why}", err=True)
            continue
        ranks[column] = {each.model: (each.best, each.worst) for each in place.models}
        if without := _without_rank(place, {model: cells[k] for model, cells in table.lines.items()}):
            say(f"no rank on {column.title}: {_some(without)}", err=True)
    say(f"ranks: {ranking.level:.0%} holds for {ranking.family}", err=True)
    return replace(table, ranks=ranks)


def _measured_run(cell: Cell) -> str | None:
    from clipjax.results.row import COMPARISON

    measured = [row for row in cell.rows if row["origin"] == "measured" and row["precision"] != COMPARISON]
    return measured[0]["run_id"] if measured else None


def _without_rank(place: Place, cells: dict[str, Cell]) -> list[str]:
    ranked = {each.model for each in place.models}
    return [
        f"{model} ({place.left_out.get(model, 'not measured here')})"
        for model, cell in cells.items()
        if cell.value is not None and model not in ranked
    ]


def _some(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more
