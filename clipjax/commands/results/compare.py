"""`clipjax compare A B`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.options import JsonOption, MetricOption, ResultsOptions
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import taking
from clipjax.errors import counted

if TYPE_CHECKING:
    from clipjax.evaluation.compare import Comparison


def register(app: typer.Typer) -> None:
    app.command("compare")(taking(CompareOptions, compare))


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
    prompts: Annotated[
        str | None,
        typer.Option(help="Only runs with this prompt set, where a model was evaluated with several."),
    ] = None
    precision: Annotated[str | None, typer.Option(help="Only runs of this precision: parity or fast.")] = None
    labels: Annotated[str | None, typer.Option(help="Only runs over this label space.")] = None
    as_json: JsonOption = False


def compare(options: CompareOptions) -> None:
    """Compare two models image by image, on every task and data set that both were evaluated on.

    Runs of two models must agree in prompts, labels, precision and images; two runs that you name may differ.

    Accuracies are compared by McNemar's exact test, other numbers by a bootstrap that draws the same images
    for both. The headline metrics of a task are tested, and their p-values corrected for the number of tests
    shown (Holm). Other metrics have an interval and no verdict.

    Examples:

        clipjax compare vit_b_32-openai vit_b_16-openai

        clipjax compare vit_b_32-openai vit_b_16-openai --prompts openai_80

        clipjax compare 20260101T120000.000000Z-0a1b2c3d results/20260102T130000.000000Z-4e5f6a7b
    """
    from clipjax.results.named import runs_named

    for name in (options.first, options.second):  # before a library is loaded that computes
        runs_named(name, options.where.path)
    comparisons = _comparisons(options)
    if options.as_json:
        say(json.dumps([_record(each) for each in comparisons], indent=2))
        return
    titles = ["task", "data set", "metric", "A", "B", "B - A", "interval", "p", "p (Holm)", "test", "n"]
    print_table(titles, [_cells(each) for each in comparisons])
    say(f"\nA: {comparisons[0].models[0]}\nB: {comparisons[0].models[1]}")
    for line in [*_tested(comparisons), *_differences(comparisons)]:
        say(line)


def _comparisons(options: CompareOptions) -> Sequence[Comparison]:
    from clipjax.evaluation.compare import compare_runs

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
    record = dataclasses.asdict(found)
    return record | {"interval": None if found.interval is None else found.interval._asdict()}


def _cells(found: Any) -> list[str]:
    interval = "" if found.interval is None else f"[{found.interval.lo:+.4f}, {found.interval.hi:+.4f}]"
    values = [f"{found.first:.4f}", f"{found.second:.4f}", f"{found.difference:+.4f}", interval]
    chances = ["", ""] if found.p_holm is None else [f"{found.p_value:.2g}", f"{found.p_holm:.2g}"]
    return [found.task, found.dataset, found.metric, *values, *chances, found.test, str(found.n)]


# What each test takes as fixed: it decides what a repetition of the study would vary.
_FIXED = {
    "mcnemar_exact": "McNemar's test of {} takes as fixed on how many images the runs differ",
    "paired_bootstrap": "the bootstrap of {} only how many images, objects or sets are drawn, and so not how "
    "many of each class",
}


def _tested(found: Sequence[Any]) -> list[str]:
    """What the p-values are of, and a word on metrics that are one difference."""
    tests = sum(each.p_holm is not None for each in found)
    if not tests:
        names = {each.task: None for each in found}
        return [
            f"no verdict: no metric shown is a headline (`clipjax tasks {task}` lists them)" for task in names
        ]
    lines = (
        [] if tests == len(found) else [f"p: of the {counted(tests, 'headline metric')}; others have none"]
    )
    for each in found:
        if each.same_as and each.test.startswith("mcnemar"):
            names = ", ".join(each.same_as)
            fixed = [_FIXED["mcnemar_exact"].format(each.metric), _FIXED["paired_bootstrap"].format(names)]
            lines.append(
                f"{each.task} on {each.dataset}: {each.metric} and {names} are one difference, not two "
                f"findings: {', '.join(fixed)}"
            )
    return lines


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _differences(found: Sequence[Any]) -> list[str]:
    lines = [
        f"{each.task} on {each.dataset}, {key}: {_said(first)} (A), {_said(second)} (B)"
        for each in found
        for key, (first, second) in each.differs.items()
    ]
    lines += [
        f"{each.task} on {each.dataset}, {metric} is left out: {why}"
        for each in found
        for metric, why in each.left_out.items()
    ]
    return list(dict.fromkeys(lines))
