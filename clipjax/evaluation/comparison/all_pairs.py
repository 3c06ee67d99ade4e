"""Compare three models or more on the same images: every pair, with intervals that hold for all together.

    for number in compare_models(["vit_b_32-openai", "vit_b_16-openai", "lite0"], "results").numbers:
        print(number.dataset, number.values, [(each.models, each.interval) for each in number.differences])

Tests are those of `compare`: McNemar's exact test of proportions, else a bootstrap that draws the same images
for all models; the p-values of headlines are corrected together (Holm). An interval is the difference and c
standard errors to each side; in 95 % of draws no difference shown is further from its mean than c (max-t).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError, counted, unknown_name
from clipjax.evaluation.comparison.alike_runs import way_in_words
from clipjax.evaluation.comparison.many_numbers import PairTests, tested_resampled, tested_shares
from clipjax.evaluation.comparison.metric_limits import within_range
from clipjax.evaluation.comparison.ranking import DRAWS
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.evaluation.comparison.runs_of_models import SharedImages, places_of, runs_of
from clipjax.evaluation.request import Request
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES, draws_for
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval
from clipjax.metrics.uncertainty.paired import holm
from clipjax.metrics.uncertainty.ranks import decide_ranks
from clipjax.options import check_values
from clipjax.results.tables import model_name
from clipjax.tasks.inputs import About
from clipjax.tasks.task import find_task


class PairDifference(NamedTuple):
    """`difference` is the second model's number less the first's.

    Attributes:
        interval: holds together with those of all differences of the call; None without chance in it.
        p_value: two-sided, of this difference alone.
        p_holm: corrected for all differences of headlines; None for a metric that is not a headline.
        gained: images that only the second model gets right; None if the metric is not a proportion.
        lost: images that only the first model gets right.
    """

    models: tuple[str, str]
    difference: float
    interval: Interval | None
    p_value: float
    p_holm: float | None
    gained: int | None
    lost: int | None


@dataclass(frozen=True)
class NumberOfModels:
    """One metric of several models on the same images.

    Attributes:
        values: by model, in the order of the call.
        differences: of all pairs.
    """

    task: str
    dataset: str
    metric: str
    n: int
    test: str
    headline: bool
    values: Mapping[str, float]
    differences: tuple[PairDifference, ...]


@dataclass(frozen=True)
class ModelComparison:
    """All pairs of the models, on each task and data set.

    Attributes:
        family: the differences for which the intervals hold together, in words.
        critical: the half-width of an interval, in standard errors; None without any.
        ways: how the runs of a task and data set were measured, as far as options choose ("prompts single,
            precision fast"); nothing if runs were named.
        differs: settings that differ between runs that were named ("prompts") -> by task and data set, model.
        left_out: "zeroshot on d" -> model or metric -> why.
        not_compared: "zeroshot on d" -> why.
    """

    models: tuple[str, ...]
    numbers: tuple[NumberOfModels, ...]
    level: float
    family: str
    critical: float | None
    draws: int
    ways: Mapping[str, str]
    differs: Mapping[str, Mapping[str, Mapping[str, Any]]]
    left_out: Mapping[str, Mapping[str, str]]
    not_compared: Mapping[str, str]


def compare_models(
    names: Sequence[str | Path],
    results: str | Path = "results",
    *,
    metrics: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    prompts: str | None = None,
    precision: str | None = None,
    labels: str | None = None,
) -> ModelComparison:
    """Compare three models or more, or runs, on every task and data set that two or more of them share.

    Args:
        names: models' ids, run ids in `results`, or folders of runs. Of models, the way of measuring that
            most share counts; runs that are all named may differ in it.
        metrics: only these; default: the headlines of each task.
        resamples: at least; more if the correction needs them.
        prompts: the prompt set that chooses among a model's runs.
        precision: "parity" or "fast", chooses among a model's runs.
        labels: the label space that chooses among a model's runs.

    Raises:
        UsageError: fewer than three names, one twice, or no run, model or metric of that name.
        DataError: on no task and data set two of them were measured alike on the same images.
    """
    check_values(Request, resamples=resamples, seed=seed)
    runs, named = runs_of(list(map(str, names)), Path(results))
    choice = None if named else RunFilter(prompts, precision, labels)
    places, not_compared = places_of(runs, choice)
    shown = [(place, _names(place, metrics)) for place in places]
    if not any(names for _, names in shown):
        raise _nothing(metrics, places, not_compared)
    draws = _draws(shown, resamples)
    tests: list[tuple[SharedImages, str, PairTests]] = []
    for place, chosen in shown:
        found, without = _tested(place, chosen, draws, seed)
        tests += [(place, metric, found[metric]) for metric in chosen if metric in found]
        place.without.update(without)
    if not tests:
        raise _nothing(metrics, places, not_compared)
    critical = next(iter(decide_ranks([each.sample for *_, each in tests], step_down=False).critical), None)
    return ModelComparison(
        tuple(dict.fromkeys(model_name(run.row) for run in runs)),
        tuple(_numbers(tests, critical)),
        LEVEL,
        _family(tests),
        critical,
        draws,
        {} if named else {place.name: way_in_words(place.rows) for place, names in shown if names},
        _differences(places if named else []),
        {place.name: place.left_out | _without(place, metrics) for place in places},
        not_compared,
    )


def _names(place: SharedImages, metrics: Sequence[str]) -> list[str]:
    return [name for name in place.values if name in (metrics or place.headlines)]


def _without(place: SharedImages, metrics: Sequence[str]) -> dict[str, str]:
    """The metrics that were asked for and are not compared, and why."""
    headlines = itertools.chain(*find_task(place.row["task"]).headlines)
    return {name: place.without[name] for name in metrics or headlines if name in place.without}


def _nothing(
    metrics: Sequence[str], places: Sequence[SharedImages], not_compared: Mapping[str, str]
) -> Exception:
    known = sorted({name for place in places for name in place.values})
    without = {name: why for place in places for name, why in place.without.items()}
    for metric in metrics:
        if metric not in known and metric not in without:
            return unknown_name("metric", metric, known)
    of_places = {name: why for place in places for name, why in _without(place, metrics).items()}
    reasons = {**not_compared, **of_places}
    words = "; ".join(f"{name} ({why})" for name, why in reasons.items())
    return DataError(f"the models have nothing to compare by: {words or 'no headline metric'}")


def _draws(shown: Sequence[tuple[SharedImages, list[str]]], resamples: int) -> int:
    """As many as Holm's correction over all pairs needs; where all are proportions, it needs none."""
    tests, drawn = 0, False
    for place, names in shown:
        pairs = len(place.rows) * (len(place.rows) - 1) // 2
        headlines = [name for name in names if name in place.headlines]
        tests += pairs * len(headlines)
        drawn |= any(name not in place.paired[0].right for name in names)
    return max(resamples, draws_for(tests)) if drawn else max(resamples, DRAWS)


def _tested(
    place: SharedImages, names: Sequence[str], draws: int, seed: int
) -> tuple[dict[str, PairTests], dict[str, str]]:
    about = About(place.row["dataset"], None, resamples=draws, seed=seed)
    tested, left_out = {}, {}
    shares = [name for name in names if all(name in each.right for each in place.paired)]
    for name in shares:
        right = np.stack([np.asarray(each.right[name], bool) for each in place.paired])
        try:
            # Draws of their own: other metrics of the images are drawn as if they were of other images.
            tested[name] = tested_shares(right, replace(about, dataset=f"{place.name} {name}"))
        except ValueError as error:
            left_out[name] = str(error)
    drawn = {name: place.values[name] for name in names if name not in shares}
    if drawn:
        found, without = tested_resampled(place.paired, drawn, place.n, about)
        tested, left_out = tested | found, left_out | without
    return tested, left_out


def _numbers(
    tests: Sequence[tuple[SharedImages, str, PairTests]], critical: float | None
) -> Iterator[NumberOfModels]:
    corrected = iter(_corrected(tests))
    for place, metric, of in tests:
        headline, names = metric in place.headlines, [model_name(row) for row in place.rows]
        means, errors = of.sample.means, of.sample.errors
        differences = []
        for i, j in itertools.combinations(range(len(names)), 2):
            difference, half = float(means[j] - means[i]), (critical or 0) * float(errors[i, j])
            limits = (difference - half, difference + half)
            counts = (None, None) if of.gained is None else (int(of.gained[i, j]), int(of.gained[j, i]))
            differences.append(
                PairDifference(
                    (names[i], names[j]),
                    difference,
                    within_range(Interval(*limits, LEVEL, "max_t_paired"), metric) if half else None,
                    float(of.p_values[i, j]),
                    next(corrected) if headline else None,
                    *counts,
                )
            )
        values = dict(zip(names, means.tolist()))
        yield NumberOfModels(
            place.row["task"],
            place.row["dataset"],
            metric,
            of.n,
            of.test,
            headline,
            values,
            tuple(differences),
        )


def _corrected(tests: Sequence[tuple[SharedImages, str, PairTests]]) -> list[float]:
    """Holm's p-values of all pairs of all headlines, in order."""
    p_values = [
        of.p_values[np.triu_indices(len(of.p_values), 1)]
        for place, metric, of in tests
        if metric in place.headlines
    ]
    return holm(np.concatenate(p_values)).tolist() if p_values else []


def _family(tests: Sequence[tuple[SharedImages, str, PairTests]]) -> str:
    pairs = sum(len(of.p_values) * (len(of.p_values) - 1) // 2 for *_, of in tests)
    sets = len({place.name for place, *_ in tests})
    numbers = counted(len({metric for _, metric, _ in tests}), "metric")
    where = "" if sets == 1 else f" on {sets} data sets"
    return f"all {pairs} differences of pairs of models in {numbers}{where} together"


def _differences(places: Sequence[SharedImages]) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings of named runs that differ."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for place in places:
        settings = {
            model_name(row): {**row["convention"], "precision": row["precision"]} for row in place.rows
        }
        for key in dict.fromkeys(itertools.chain(*settings.values())):
            values = {model: own.get(key) for model, own in settings.items()}
            if len(set(map(str, values.values()))) > 1:
                found.setdefault(key, {})[place.name] = values
    return found
