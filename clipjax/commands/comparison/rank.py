"""`clipjax rank RESULTS`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.comparison.ranked_runs import RankedRuns
from clipjax.commands.shared.options import JsonOption, ResultsOptions
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.commands.shared.result_folder import checked
from clipjax.errors import UsageError, visible

if TYPE_CHECKING:
    from clipjax.analysis.rows.model_ranking import Place

FAMILIES = ("all", "each")
SIDES = ("both", "best", "worst")


def register(app: typer.Typer) -> None:
    app.command("rank")(with_options(RankOptions, rank))


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    where: ResultsOptions
    ranked: RankedRuns
    family: Annotated[
        str,
        typer.Option(help="The tests for which 95 % holds: all data sets together (all), or each by itself."),
    ] = "all"
    side: Annotated[str, typer.Option(help="Limits of the ranks: both, only the best or only the worst.")] = (
        "both"
    )
    draws: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Draws of the models' means.")] = 10_000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0
    as_json: JsonOption = False
    PANELS: ClassVar = {
        "What is ranked": ("metric", "models", "task", "dataset", "prompts", "precision", "labels"),
        "The tests": ("family", "side", "draws", "seed"),
        "Input and output": ("results", "as_json"),
    }


def rank(options: RankOptions) -> None:
    r"""Rank all models that were measured on the same images, with an interval of each model's rank.

    All intervals hold together with 95 % probability: they come from tests of all pairs of models (max-t over
    paired differences, step-down). Models that no other beats cannot be told from the best.

    Examples:

        clipjax rank results --metric top1

        clipjax rank results --metric top1 --dataset imagenet_val \
            --models vit_b_32-openai --models vit_b_16-openai

        clipjax rank results --metric top1 --family each --json
    """
    for name, value, known in (("family", options.family, FAMILIES), ("side", options.side, SIDES)):
        if value not in known:
            raise UsageError(f"--{name} is {value!r}; give {', '.join(known[:-1])} or {known[-1]}")
    checked(options.where.path)
    found = options.ranked.ranking(
        options.where.path,
        each=options.family == "each",
        side=options.side,
        draws=options.draws,
        seed=options.seed,
    )
    if options.as_json:
        say(json.dumps(dataclasses.asdict(found) | {"places": [*map(_record, found.places)]}, indent=2))
        return
    for place in found.places:
        _show(place)
    for name, why in found.not_ranked.items():
        say(visible(f"{name} is not ranked: {why}"))
    steps = [each[-1] for each in found.critical if each]
    above = f"a difference counts above {' and '.join(f'{each:.2f}' for each in steps)} standard errors"
    above = above if steps else "no difference varies with the images"
    say(f"{found.level:.0%} holds for {found.family}; {above} ({found.draws:,} draws)")


def _record(place: Place) -> dict:
    return dataclasses.asdict(place) | {"models": [each._asdict() for each in place.models]}


def _show(place: Place) -> None:
    from clipjax.analysis.rows.model_ranking import rank_text

    say(visible(f"{place.task} on {place.dataset}, {len(place.models)} models, {place.n:,} images"))
    print_table(
        ["rank", "model", place.metric],
        [[rank_text(each.best, each.worst), each.model, f"{each.value:.4f}"] for each in place.models],
    )
    say(visible(f"measured with {place.way}"))
    say(visible(f"cannot be told from the best: {', '.join(place.not_told_from_best)}"))
    for model, why in place.left_out.items():
        say(visible(f"{model} is left out: {why}"))
    say("")
