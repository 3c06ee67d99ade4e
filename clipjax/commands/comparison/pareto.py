"""`clipjax pareto RESULTS`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.comparison.ranked_runs import RankedRuns
from clipjax.commands.results.costs import costs_of
from clipjax.commands.shared.options import JsonOption, RatesOption, ResultsOptions
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.commands.shared.result_folder import opened
from clipjax.errors import DataError, visible

if TYPE_CHECKING:
    from clipjax.analysis.cost.fronts import ParetoFront
    from clipjax.analysis.cost.model_costs import Cost
    from clipjax.analysis.rows.model_ranking import ModelRanking


def register(app: typer.Typer) -> None:
    app.command("pareto")(with_options(ParetoOptions, pareto))


@dataclass(frozen=True, kw_only=True)
class ParetoOptions:
    where: ResultsOptions
    ranked: RankedRuns
    cost: Annotated[
        str,
        typer.Option(
            help='What a model costs: operations, params, model_params, "images_per_second DEVICE PRECISION" '
            'or "estimated_images_per_second CHIP PRECISION".'
        ),
    ] = "operations"
    rates: RatesOption = None
    as_json: JsonOption = False
    PANELS: ClassVar = {
        "Cost and number": ("metric", "cost", "rates"),
        "Which models": ("models", "task", "dataset", "prompts", "precision", "labels"),
        "Input and output": ("results", "as_json"),
    }


def pareto(options: ParetoOptions) -> None:
    r"""Print the models by cost, and which of them another beats: one that costs no more and is better.

    Whether a model is better is tested as in `clipjax rank`, so that all verdicts hold together with 95 %
    probability: on the front (all that cost no more are decidedly worse), dominated (one that costs no more
    is decidedly better), or cannot be told.

    Examples:

        clipjax pareto results --metric top1

        clipjax pareto results --metric top1 --dataset imagenet_val --json

        clipjax pareto results --metric top1 \
            --cost "images_per_second cpu parity" \
            --rates ~/.cache/clipjax/batch_sizes
    """
    from clipjax.analysis.cost.fronts import pareto_front
    from clipjax.analysis.cost.model_costs import absent_in_words

    cost = costs_of(opened(options.where.path).rows(), options.rates).find(options.cost)
    ranking = options.ranked.ranking(options.where.path)
    every = [pareto_front(place, cost) for place in ranking.places]
    fronts = [front for front in every if len(front.models) > 1]
    if not fronts:
        absent = {model: why for front in every for model, why in front.left_out.items()}
        raise DataError(
            f"{options.where.path}: nowhere have two models both {options.ranked.metric} and {cost.name} "
            f"({'; '.join(absent_in_words(absent))})"
        )
    if options.as_json:
        say(json.dumps(_record(fronts, cost, ranking), indent=2))
        return
    for front in fronts:
        _show(front)
    for name, why in ranking.not_ranked.items():
        say(visible(f"{name} is left out: {why}"))
    say(f"{ranking.level:.0%} holds for {ranking.family}; costs are taken as exact")


def _record(fronts: list[ParetoFront], cost: Cost, ranking: ModelRanking) -> dict:
    places = [
        dataclasses.asdict(front) | {"models": [each._asdict() for each in front.models]} for front in fronts
    ]
    about = {"name": cost.name, "title": cost.title, "cheaper": cost.cheaper, "marks": cost.marks}
    return {
        "cost": about,
        "level": ranking.level,
        "family": ranking.family,
        "draws": ranking.draws,
        "fronts": places,
        "not_ranked": dict(ranking.not_ranked),
    }


def _show(front: ParetoFront) -> None:
    from clipjax.analysis.cost.model_costs import absent_in_words

    say(visible(f"{front.task} on {front.dataset}, {len(front.models)} models, {front.n:,} images"))
    titles = [front.title, "model", front.metric, "front", "verdict", "decidedly better for no more"]
    print_table(
        titles,
        [
            [
                each.cost_text,
                each.model,
                f"{each.value:.4f}",
                "*" if each.on_front else "",
                each.verdict,
                ", ".join(each.beaten_by[:1]) + (" ..." if len(each.beaten_by) > 1 else ""),
            ]
            for each in front.models
        ],
    )
    for line in absent_in_words(front.left_out):
        say(visible(line))
    say("")
