"""`clipjax compare A B`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.options import (
    JsonOption,
    MetricOption,
    OnlyLabelsOption,
    OnlyPrecisionOption,
    OnlyPromptsOption,
    ResultsOptions,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.errors import counted, visible

if TYPE_CHECKING:
    from clipjax.evaluation.comparison.compare import Comparison


Places = dict[str, dict[str, None]]  # data sets by task, in order


def register(app: typer.Typer) -> None:
    app.command("compare")(with_options(CompareOptions, compare))


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    first: Annotated[str, typer.Argument(metavar="A", help="A model's id, a run id, or a run's folder.")]
    second: Annotated[
        str,
        typer.Argument(metavar="B", help="A model's id, a run id, or a run's folder; differences are B - A."),
    ]
    where: ResultsOptions
    metric: MetricOption = None
    resamples: Annotated[
        int,
        typer.Option(min=100, help="Fewest resamples of the paired bootstrap; the tests may need more."),
    ] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0
    prompts: OnlyPromptsOption = None
    precision: OnlyPrecisionOption = None
    labels: OnlyLabelsOption = None
    as_json: JsonOption = False


def compare(options: CompareOptions) -> None:
    r"""Compare two models image by image, on every task and data set that both were evaluated on.

    Runs of two models must agree in prompts, labels, precision and images; two runs that you name may differ.

    Accuracies are compared by McNemar's exact test, other numbers by a bootstrap that draws the same images
    for both. The headline metrics of a task are tested, and their p-values corrected for the number of tests
    shown (Holm). Other metrics have an interval and no p-value (null in --json).

    Examples:

        clipjax compare vit_b_32-openai vit_b_16-openai

        clipjax compare vit_b_32-openai vit_b_16-openai --prompts openai_80

        clipjax compare 20260101T120000.000000Z-0a1b2c3d \
            results/20260102T130000.000000Z-4e5f6a7b
    """
    from clipjax.results.runs.stored_runs import runs_named

    for name in (options.first, options.second):  # before a library is loaded that computes
        runs_named(name, options.where.path)
    comparisons = _comparisons(options)
    if options.as_json:
        say(json.dumps([_record(each) for each in comparisons], indent=2))
        return
    titles = ["task", "data set", "metric", "A", "B", "B - A", "interval", "p", "p (Holm)", "test", "n"]
    print_table(titles, [_cells(each) for each in comparisons])
    say("")
    models = [f"{side}: {model}" for side, model in zip("AB", comparisons[0].models)]
    for line in [*models, *_tested(comparisons), *_differences(comparisons), *_left_out(comparisons)]:
        say(visible(line))


def _comparisons(options: CompareOptions) -> Sequence[Comparison]:
    from clipjax.evaluation.comparison.compare import compare_runs

    return compare_runs(
        options.first,
        options.second,
        options.where.path,
        metrics=options.metric or [],
        resamples=options.resamples,
        seed=options.seed,
        prompts=options.prompts,
        precision=options.precision,
        labels=options.labels,
    )


def _record(found: Any) -> dict[str, Any]:
    interval = None if found.interval is None else found.interval._asdict()
    p_value = None if found.p_holm is None else found.p_value
    return dataclasses.asdict(found) | {"interval": interval, "p_value": p_value}


def _cells(found: Any) -> list[str]:
    interval = "" if found.interval is None else f"[{found.interval.lo:+.4f}, {found.interval.hi:+.4f}]"
    values = [f"{found.first:.4f}", f"{found.second:.4f}", f"{found.difference:+.4f}", interval]
    chances = ["", ""] if found.p_holm is None else [f"{found.p_value:.2g}", f"{found.p_holm:.2g}"]
    return [found.task, found.dataset, found.metric, *values, *chances, found.test, str(found.n)]


# Each test's fixed facts: the others are what a repetition of the study would vary.
_FIXED = {
    "mcnemar_exact": "McNemar's test of {} takes as fixed on how many images the runs differ",
    "paired_bootstrap": "the bootstrap of {} only how many images, objects or sets are drawn, and so not how "
    "many of each class",
}


def _tested(found: Sequence[Any]) -> list[str]:
    """The differences that have p-values, and a word on metrics that are one difference."""
    tests = sum(each.p_holm is not None for each in found)
    if not tests:
        names = {each.task: None for each in found}
        return [
            f"no verdict: no metric shown is a headline (`clipjax tasks {task}` lists them)" for task in names
        ]
    lines = (
        [] if tests == len(found) else [f"p: of the {counted(tests, 'headline metric')}; others have none"]
    )
    groups: dict[tuple[str, str], Places] = {}
    for each in found:
        if each.same_as and each.test.startswith("mcnemar"):
            _add(groups, (each.metric, ", ".join(each.same_as)), each)
    for (metric, names), places in groups.items():
        fixed = [_FIXED["mcnemar_exact"].format(metric), _FIXED["paired_bootstrap"].format(names)]
        lines.append(
            f"{_where(places)}: {metric} and {names} are one difference, not two findings: {', '.join(fixed)}"
        )
    return lines


def _add(groups: dict[Any, Places], key: Hashable, each: Any) -> None:
    groups.setdefault(key, {}).setdefault(each.task, {})[each.dataset] = None


def _where(places: Places) -> str:
    """E.g. "zeroshot on imagenet, imagenet_v2; ood on ninco"."""
    return "; ".join(f"{task} on {', '.join(datasets)}" for task, datasets in places.items())


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _differences(found: Sequence[Any]) -> list[str]:
    groups: dict[str, Places] = {}
    for each in found:
        for key, (first, second) in each.differs.items():
            _add(groups, f"{key}: {_said(first)} (A), {_said(second)} (B)", each)
    return [f"{_where(places)}, {words}" for words, places in groups.items()]


def _left_out(found: Sequence[Any]) -> list[str]:
    """One line for equal reasons: of tasks and data sets as a whole, then of metrics."""
    wholes: dict[str, list[str]] = {}
    for name, why in found[0].not_compared.items():
        wholes.setdefault(why, []).append(name)
    groups: dict[tuple[str, str], Places] = {}
    for each in found:
        metrics: dict[str, list[str]] = {}
        for metric, why in each.left_out.items():
            metrics.setdefault(why, []).append(metric)
        for why, names in metrics.items():
            _add(groups, (_are(names), why), each)
    lines = [f"{_are(names)} left out: {why}" for why, names in wholes.items()]
    return lines + [f"{_where(places)}: {names} left out: {why}" for (names, why), places in groups.items()]


def _are(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
