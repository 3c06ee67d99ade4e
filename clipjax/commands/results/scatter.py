"""`clipjax results scatter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.results.costs import costs_of
from clipjax.commands.shared.exclusions import refuse_without
from clipjax.commands.shared.options import (
    HighlightOption,
    PrecisionOption,
    PromptSetOption,
    RatesOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import say
from clipjax.commands.shared.result_folder import check_choice, check_models, opened
from clipjax.errors import ClipjaxError, visible

if TYPE_CHECKING:
    from clipjax.analysis.cost.model_costs import Cost
    from clipjax.analysis.figures.figure_set import FigureResult
    from clipjax.analysis.rows.cells import RowIndex
    from clipjax.analysis.rows.model_ranking import Place


@dataclass(frozen=True, kw_only=True)
class ScatterOptions:
    x: Annotated[
        str,
        typer.Argument(metavar="X", help="Number across: DATASET/METRIC, or a cost: cost/operations, ..."),
    ]
    y: Annotated[str, typer.Argument(metavar="Y", help="Number upwards: DATASET/METRIC.")]
    where: ResultsOptions
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task of both, if several tasks have such a number.")
    ] = None
    scale: Annotated[
        str | None,
        typer.Option(
            help="Both axes' scale: probit, logit, log or linear. Default: probit for fractions, log for "
            "a cost, else linear."
        ),
    ] = None
    label: Annotated[bool, typer.Option("--label", help="Write every model's name beside its point.")] = False
    highlight: HighlightOption = None
    rates: RatesOption = None
    prompts: PromptSetOption = None
    precision: PrecisionOption = "parity"
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Files to write, without an ending: png, pdf, svg and csv.")
    ] = Path("scatter")


def scatter(options: ScatterOptions) -> None:
    r"""Draw one number of the models against another, with a robust fit, or against a cost, with its front.

    Costs: cost/operations, cost/params (of the image tower), cost/model_params, "cost/images_per_second
    DEVICE PRECISION" (measured, --rates) and "cost/estimated_images_per_second CHIP PRECISION".

    Examples:

        clipjax results scatter imagenet_val/top1 imagenet_r/top1 --label

        clipjax results scatter cost/operations imagenet_r/top1 --out cost

        clipjax results scatter imagenet_val/top1 "ninco/auroc score:mcm" \
            --out ood
    """
    from clipjax.analysis.cost.cost_rows import AXIS
    from clipjax.analysis.figures.two_numbers import draw_two, not_alike
    from clipjax.analysis.rows.cells import RowIndex

    of_cost = options.x.startswith(AXIS) or options.y.startswith(AXIS)
    refuse_without("a cost as an axis (cost/...)", {} if of_cost else {"--rates": options.rates})
    rows = opened(options.where.path).rows()
    index = RowIndex(rows)
    check_choice(index, prompts=options.prompts, precision=options.precision)
    check_models(index.models, options.highlight or ())
    costs = costs_of(rows, options.rates) if of_cost else None
    done = draw_two(
        index,
        options.x,
        options.y,
        options.out,
        task=options.task,
        scale=options.scale,
        names=options.label,
        highlight=options.highlight or (),
        costs=costs,
        ranked=partial(_ranked, options.where.path),
        prompts=options.prompts,
        precision=options.precision,
    )
    if lines := not_alike(done, options.x, options.y):
        say(f"not measured alike: {'; '.join(lines)}", err=True)
    if costs is not None:
        _say_front(done, index, costs.find(options.x.removeprefix(AXIS)))
    for file in done.files:
        say(str(file))


def _ranked(folder: Path, metric: str, runs: Sequence[str]) -> Place | None:
    """The ranks of these runs' models; None, and why, where they cannot be tested."""
    from clipjax.evaluation.comparison.ranking import rank_models

    if not runs:
        say("the front is not tested: published numbers come without their images", err=True)
        return None
    try:
        return rank_models(folder, metric, runs=runs).places[0]
    except ClipjaxError as error:
        say(f"the front is not tested: {error}", err=True)
        return None


def _say_front(done: FigureResult, index: RowIndex, cost: Cost) -> None:
    """Say who is left out, and who is on the front."""
    from clipjax.analysis.cost.model_costs import absent_in_words

    panel = done.spec.panels[0]
    there = [] if panel.y is None else index.models_of(panel.y.column.terms)
    for line in absent_in_words({model: cost.absent[model] for model in there if model in cost.absent}):
        say(visible(line), err=True)
    if panel.front is not None:
        say(visible(f"on the front of these numbers: {', '.join(panel.front.line)}"), err=True)
