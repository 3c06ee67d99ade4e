"""`clipjax compare A B [C ...]`."""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import (
    JsonOption,
    MetricOption,
    OnlyLabelsOption,
    OnlyPrecisionOption,
    OnlyPromptsOption,
    ResultsOption,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.errors import counted, visible

if TYPE_CHECKING:
    from clipjax.evaluation.comparison.all_pairs import ModelComparison, NumberOfModels, PairDifference
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
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="C|RESULTS",
            help="More models or runs. Last, the folder that `clipjax eval --results` wrote to: RESULTS.",
        ),
    ] = None
    results: ResultsOption = None
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

    @property
    def names(self) -> list[str]:
        """The models and runs, two or more."""
        others = self.others or []
        return [self.first, self.second, *(others[:-1] if self._has_folder else others)]

    @property
    def folder(self) -> Path:
        """Raises UsageError if the folder of results was given twice."""
        last = Path((self.others or [""])[-1]) if self._has_folder else None
        refuse_beside("--results", {"RESULTS": last if self.results is not None else None})
        return last or self.results or Path("results")

    @property
    def how(self) -> dict[str, Any]:
        """The keywords of `compare_runs` and of `compare_models`, which are the same."""
        names = ("resamples", "seed", "prompts", "precision", "labels")
        return {"metrics": self.metric or [], **{name: getattr(self, name) for name in names}}

    @property
    def _has_folder(self) -> bool:
        """Whether the last name is the folder of results: a folder that is not a run's."""
        from clipjax.results.runs.run_files import RUN
        from clipjax.results.store import ResultStore
        from clipjax.storage.reading import is_dir

        if not self.others:
            return False
        last = self.others[-1]
        root = ResultStore(last).root
        is_folder = "://" in last or "/" in last or is_dir(root)
        return is_folder and not (root / RUN).is_file()


def compare(options: CompareOptions) -> None:
    r"""Compare models image by image, on every task and data set that they were evaluated on.

    Runs of two models must agree in prompts, labels, precision and images; two runs that you name may differ.

    Accuracies are compared by McNemar's exact test, other numbers by a bootstrap that draws the same images
    for both. The headline metrics of a task are tested, and their p-values corrected for the number of tests
    shown (Holm). Other metrics have an interval and no p-value (null in --json).

    Three models or more are compared in all pairs, by the headline metrics: the intervals hold for all
    differences together (max-t), and the p-values are corrected for all of them (Holm). Models that were
    measured in another way or on other images than most are left out by name.

    Examples:

        clipjax compare vit_b_32-openai vit_b_16-openai

        clipjax compare vit_b_32-openai vit_b_16-openai --prompts openai_80

        clipjax compare vit_b_32-openai vit_b_16-openai vit_l_14-openai \
            --results results

        clipjax compare 20260101T120000.000000Z-0a1b2c3d \
            results/20260102T130000.000000Z-4e5f6a7b
    """
    from clipjax.results.runs.stored_runs import runs_named

    for name in options.names:  # before a library is loaded that computes
        runs_named(name, options.folder)
    if len(options.names) > 2:
        _compare_many(options)
        return
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

    return compare_runs(options.first, options.second, options.folder, **options.how)


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


# Three models and more.


def _compare_many(options: CompareOptions) -> None:
    from clipjax.evaluation.comparison.all_pairs import compare_models

    found = compare_models(options.names, options.folder, **options.how)
    if options.as_json:
        say(json.dumps(_record_of_many(found), indent=2))
        return
    letters = {model: _letter(k) for k, model in enumerate(found.models)}
    print_table(
        ["task", "data set", "metric", "n", *letters.values()],
        [_values_of(number, letters) for number in found.numbers],
    )
    say("")
    print_table(
        ["task", "data set", "metric", "pair", "difference", "interval", "p", "p (Holm)", "test"],
        [_pair_cells(number, each, letters) for number in found.numbers for each in number.differences],
    )
    say("")
    for line in _lines_of_many(found, letters):
        say(visible(line))


def _letter(k: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    return string.ascii_uppercase[k % 26] + (str(k // 26 + 1) if k >= 26 else "")


def _record_of_many(found: ModelComparison) -> dict[str, Any]:
    numbers = []
    for number in found.numbers:
        pairs = [
            each._asdict() | {"interval": None if each.interval is None else each.interval._asdict()}
            for each in number.differences
        ]
        numbers.append(dataclasses.asdict(number) | {"differences": pairs})
    return dataclasses.asdict(found) | {"numbers": numbers}


def _values_of(number: NumberOfModels, letters: dict[str, str]) -> list[str]:
    values = [f"{number.values[model]:.4f}" if model in number.values else "" for model in letters]
    return [number.task, number.dataset, number.metric, f"{number.n:,}", *values]


def _pair_cells(number: NumberOfModels, each: PairDifference, letters: dict[str, str]) -> list[str]:
    first, second = (letters[model] for model in each.models)
    interval = "" if each.interval is None else f"[{each.interval.lo:+.4f}, {each.interval.hi:+.4f}]"
    chances = ["", ""] if each.p_holm is None else [f"{each.p_value:.2g}", f"{each.p_holm:.2g}"]
    where = [number.task, number.dataset, number.metric, f"{second} - {first}"]
    return [*where, f"{each.difference:+.4f}", interval, *chances, number.test]


def _lines_of_many(found: ModelComparison, letters: dict[str, str]) -> Iterator[str]:
    yield from (f"{letter}: {model}" for model, letter in letters.items())
    width = "no difference varies with the images"
    if found.critical is not None:
        width = f"each is its difference +- {found.critical:.2f} standard errors ({found.draws:,} draws)"
    yield f"intervals: {found.level:.0%} holds for {found.family}; {width}"
    tests = sum(len(number.differences) for number in found.numbers if number.headline)
    yield f"p (Holm): corrected for the {counted(tests, 'difference')} of headline metrics"
    alike: dict[str, list[str]] = {}
    for place, way in found.ways.items():
        alike.setdefault(way, []).append(place)
    yield from (f"{', '.join(of)}: measured with {way}" for way, of in alike.items() if way)
    for key, places in found.differs.items():
        for place, values in places.items():
            yield f"{place}, {key}: {', '.join(f'{_said(v)} ({letters[m]})' for m, v in values.items())}"
    reasons: dict[tuple[str, str], list[str]] = {}
    for place, names in found.left_out.items():
        for name, why in names.items():
            reasons.setdefault((name, why), []).append(place)
    for (name, why), of in reasons.items():
        yield f"{', '.join(of)}: {name} is left out: {why}"
    yield from (f"{place} is left out: {why}" for place, why in found.not_compared.items())
