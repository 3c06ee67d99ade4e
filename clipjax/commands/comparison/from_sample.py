"""`clipjax results from-sample`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.shared.options import (
    JsonOption,
    OnlyDatasetsOption,
    OnlyLabelsOption,
    OnlyPrecisionOption,
    OnlyPromptsOption,
    OnlyTasksOption,
    ResultsOptions,
    ShareOption,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.result_folder import checked
from clipjax.errors import counted, some_of, visible

if TYPE_CHECKING:
    from clipjax.evaluation.comparison.from_sample import SampleEstimate, SampleEstimates
    from clipjax.metrics.uncertainty.difference_estimator import CorrectedEstimate
    from clipjax.metrics.uncertainty.intervals import Interval

NAMED = 3  # models or numbers of one reason


@dataclass(frozen=True, kw_only=True)
class FromSampleOptions:
    where: ResultsOptions
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model that was measured on a sample (`--limit`) alone.")
    ]
    minus: Annotated[
        str | None, typer.Option(help="Another model: estimate the first one's number minus this one's.")
    ] = None
    metric: ShareOption = "top1"
    task: OnlyTasksOption = None
    dataset: OnlyDatasetsOption = None
    helper: Annotated[
        list[str] | None,
        typer.Option(
            help="Use only this model's answers as help; may be repeated. Default: those of all models."
        ),
    ] = None
    prompts: OnlyPromptsOption = None
    precision: OnlyPrecisionOption = None
    labels: OnlyLabelsOption = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds for cross-fitting.")] = 0
    as_json: JsonOption = False
    PANELS: ClassVar = {
        "What is estimated": (
            "model",
            "minus",
            "metric",
            "task",
            "dataset",
            "prompts",
            "precision",
            "labels",
        ),
        "How": ("helper", "seed"),
        "Input and output": ("results", "as_json"),
    }


def from_sample(options: FromSampleOptions) -> None:
    r"""Estimate a number on all images from a run on a sample, with the help of other models' runs.

    The other models' answers to all images show whether the sample is easy or hard. The estimate corrects for
    that; its interval is narrower where they answer like the model. The gain is the measured ratio of the
    variances without and with their help: 1 means that they do not help. No result is changed.

    Examples:

        clipjax results from-sample --model vit_b_16-openai

        clipjax results from-sample --model vit_b_16-openai \
            --minus vit_b_32-openai --dataset imagenet_val

        clipjax results from-sample results --model vit_b_16-openai --json
    """
    checked(options.where.path)
    found = _estimates(options)
    if options.as_json:
        say(json.dumps(_record(found), indent=2))
        return
    titles = ["task", "data set", "metric", "images", "sample", "interval", "estimate", "interval", "gain"]
    print_table(titles, [_cells(each) for each in found.places])
    say("")
    for line in _lines(found):
        say(visible(line))


def _estimates(options: FromSampleOptions) -> SampleEstimates:
    from clipjax.evaluation.comparison.from_sample import estimates_from_sample
    from clipjax.evaluation.comparison.run_pairs import RunFilter

    return estimates_from_sample(
        options.where.path,
        options.model,
        options.metric,
        minus=options.minus,
        helpers=options.helper or (),
        tasks=options.task or (),
        datasets=options.dataset or (),
        choice=RunFilter(options.prompts, options.precision, options.labels),
        seed=options.seed,
    )


def _record(found: SampleEstimates) -> dict[str, Any]:
    places = [
        dataclasses.asdict(each)
        | {"estimate": _numbers(each.estimate), "measured": _numbers(each.measured)}
        | {"helpers": [helper._asdict() for helper in each.helpers]}
        for each in found.places
    ]
    return {"places": places, "not_estimated": found.not_estimated}


def _numbers(estimate: CorrectedEstimate) -> dict[str, Any]:
    intervals = {"interval": estimate.interval, "interval_beyond": estimate.interval_beyond}
    return estimate._asdict() | {name: interval._asdict() for name, interval in intervals.items()}


def _cells(each: SampleEstimate) -> list[str]:
    alone, own = each.measured, each.estimate
    shown = [f"{alone.value:.4f}", _limits(alone.interval), f"{own.value:.4f}", _limits(own.interval)]
    images = f"{each.n:,} of {each.of:,}"
    return [each.task, each.dataset, each.metric, images, *shown, f"{own.gain:.2f}"]


def _limits(interval: Interval) -> str:
    return f"[{interval.lo:.4f}, {interval.hi:.4f}]"


def _lines(found: SampleEstimates) -> list[str]:
    first = found.places[0]
    what = first.model if first.minus is None else f"{first.model} - {first.minus}"
    lines = [f"{what} on all images, with 95% intervals: from the sample alone, and estimated with helpers"]
    for each in found.places:
        models = Counter(helper.model for helper in each.helpers)
        place = f"{each.task} on {each.dataset}"
        lines.append(
            f"{place}: {counted(len(each.helpers), 'run')} of {counted(len(models), 'other model')} "
            f"({some_of([*models], 5)}) help; beyond these images "
            f"{_limits(each.estimate.interval_beyond)}"
        )
        if not each.estimate.weight:
            lines.append(
                f"{place}: the other models do not help here, so the estimate is the sample's own number"
            )
        lines += [
            f"{place}: {words}"
            for words in _by_reason(each.left_out, "model", "does not help", "do not help")
        ]
    return lines + _by_reason(found.not_estimated, "number", "is not estimated", "are not estimated")


def _by_reason(reasons: Mapping[str, str], noun: str, one: str, many: str) -> list[str]:
    """A line for each reason: "5 models do not help (a, b, c and 2 more): measured on ..."."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return [
        f"{of[0]} {one}: {why}"
        if len(of) == 1
        else f"{counted(len(of), noun)} {many} ({some_of(of, NAMED)}): {why}"
        for why, of in names.items()
    ]
