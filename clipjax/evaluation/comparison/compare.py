"""Compare two models on the same images: which is better, by how much, and could it be chance?

    for comparison in compare_runs("vit_b_32-openai", "vit_b_16-openai", "results"):
        print(comparison.metric, comparison.difference, comparison.interval, comparison.p_holm)

Images are joined by id: those that are hard for both models do not blur the difference. Proportions:
McNemar's exact test, and an interval of the difference (MOVER). Other numbers: a bootstrap that draws the
same images for both runs. The task's headlines are tested, their p-values corrected together (Holm), with
as many resamples as that needs; other metrics have an interval alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError
from clipjax.evaluation.comparison.metric_limits import within_range
from clipjax.evaluation.comparison.paired_numbers import Numbers, differences, values_of
from clipjax.evaluation.comparison.run_pairs import RunAddress, RunFilter, pairs_of
from clipjax.evaluation.request import Request
from clipjax.guards import known_name
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES, draws_for, weighted_mean
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.metrics.uncertainty.paired import holm
from clipjax.options import check_values
from clipjax.results.data_sets import with_distinct_names
from clipjax.results.row import Row, metric_name
from clipjax.results.store import ResultStore
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Columns, Paired, find_task


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs.

    Attributes:
        metric: with its slice ("auroc score:msp").
        difference: second - first.
        interval: None if all resamples are equal.
        p_value: two-sided, of this metric alone. `clipjax compare` shows it of headlines alone; in its JSON,
            that of another metric is null.
        p_holm: corrected for the headlines of the call; None for a metric that is not a headline of its task.
        test: "mcnemar_exact", "mover_folded_normal" (ECE) or "paired_bootstrap_1000", with p of at least
            2 / 1001.
        gained: the number of images that only the second run has right; None for other metrics.
        lost: the number of images that only the first run has right; None for other metrics.
        differs: other differences between the runs ("prompts": (first's, second's)).
        left_out: metrics of this task and data set that are not compared -> why.
        not_compared: of the call: what is left out as a whole ("shape_bias on d") -> why.
        same_as: metrics with the same two numbers and another test: one difference, not two findings.
    """

    task: str
    dataset: str
    metric: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    p_value: float
    p_holm: float | None
    test: str
    n: int
    gained: int | None
    lost: int | None
    runs: tuple[str, str]
    models: tuple[str, str]
    differs: Mapping[str, tuple[Any, Any]]
    left_out: Mapping[str, str]
    not_compared: Mapping[str, str]
    same_as: tuple[str, ...] = ()


# The default that a row's convention leaves out.
_UNSAID = {"decode": "full"}


class _Run(NamedTuple):
    rows: list[Row]
    columns: Columns

    @property
    def row(self) -> Row:
        return self.rows[0]


class _Pair(NamedTuple):
    """The images are in the same order. `dataset`: its name among the data sets of the call."""

    runs: tuple[_Run, _Run]
    paired: tuple[Paired, Paired]
    values: dict[str, tuple[float, float]]
    found: list[Numbers]
    left_out: dict[str, str]
    dataset: str = ""

    @property
    def name(self) -> str:
        return f"{self.runs[0].row['task']} on {self.dataset}"

    @property
    def headlines(self) -> tuple[str, ...]:
        return find_task(self.runs[0].row["task"]).headlines_among(self.values)


def compare_runs(
    first: str | Path,
    second: str | Path,
    results: str | Path = "results",
    *,
    metrics: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    prompts: str | None = None,
    precision: str | None = None,
    labels: str | None = None,
) -> list[Comparison]:
    """Compare two runs, or two models on everything that both were evaluated on in the same way.

    Args:
        first: a run id in `results`, the folder of a run, or a model's id. Named runs may differ; runs of
            models are paired by `clipjax.evaluation.comparison.run_pairs`.
        second: the other run or model, named in the same ways.
        metrics: only these; the correction is for the headlines among them.
        resamples: at least; more if the correction needs them.
        prompts: the prompt set that chooses among a model's runs.
        precision: "parity" or "fast", chooses among a model's runs.
        labels: the label space that chooses among a model's runs.

    Raises:
        UsageError: no run, model or metric of that name; both are one run; or several pairs of runs match.
        DataError: the runs differ in task, data set, images or annotations, or another version made them (of
            several pairs of runs: all of them); no runs match; or one of `metrics` cannot be compared.
    """
    check_values(Request, resamples=resamples, seed=seed)
    choice = RunFilter(prompts, precision, labels)
    addresses, unlike = pairs_of((str(first), str(second)), Path(results), choice)
    pairs, unfit, left_out = _pairs(addresses)
    resamples = max(resamples, _least_draws(pairs, metrics))
    for pair in pairs:
        _compare(pair, resamples, seed)
    left_out |= {name: why for pair in pairs for name, why in pair.left_out.items()}
    not_compared = unlike | unfit | {pair.name: _reasons(pair) for pair in pairs if not pair.found}
    pairs = [pair for pair in pairs if pair.found]
    if not pairs:
        words = "; ".join(f"{name} ({why})" for name, why in not_compared.items())
        raise DataError(f"{first} and {second} have nothing to compare by: {words}")
    _check_metrics(metrics, pairs, left_out)
    numbers = [(each, pair) for pair in pairs for each in pair.found if not metrics or each.metric in metrics]
    # Only headlines are tests: other metrics have no corrected p-value.
    headlines = [i for i, (each, pair) in enumerate(numbers) if each.metric in pair.headlines]
    corrected = dict(zip(headlines, holm([numbers[i][0].p_value for i in headlines]).tolist()))
    return [_comparison(each, corrected.get(i), pair, not_compared) for i, (each, pair) in enumerate(numbers)]


def _least_draws(pairs: Sequence[_Pair], metrics: Sequence[str]) -> int:
    """The draws that the correction needs; 0 if proportions and binned numbers, which need none, are all."""
    tests, without_draws = 0, 0
    for pair in pairs:
        names = [name for name in pair.headlines if not metrics or name in metrics]
        tests += len(names)
        without_draws += sum(name in pair.paired[0].right or name in pair.paired[0].binned for name in names)
    return 0 if tests == without_draws else draws_for(tests)


def _check_metrics(metrics: Sequence[str], pairs: list[_Pair], left_out: Mapping[str, str]) -> None:
    known = {each.metric for pair in pairs for each in pair.found}
    for name in metrics:
        if name not in known and name in left_out:
            raise DataError(f"{name} cannot be compared: {left_out[name]}")
        known_name("metric", name, sorted(known))


def _comparison(
    numbers: Numbers, p_holm: float | None, pair: _Pair, not_compared: Mapping[str, str]
) -> Comparison:
    a, b = pair.runs
    return Comparison(
        task=a.row["task"],
        dataset=pair.dataset,
        difference=numbers.second - numbers.first,
        p_holm=p_holm,
        runs=(a.row["run_id"], b.row["run_id"]),
        models=(a.row["model"], b.row["model"]),
        differs=_differs(pair),
        left_out=pair.left_out,
        not_compared=not_compared,
        same_as=tuple(each.metric for each in pair.found if _one_difference(each, numbers)),
        **numbers._replace(interval=within_range(numbers.interval, numbers.metric))._asdict(),
    )


def _one_difference(a: Numbers, b: Numbers) -> bool:
    """Top-1 and the mean per class of a balanced data set, for instance."""
    same = math.isclose(a.first, b.first) and math.isclose(a.second, b.second)
    return same and a.first != a.second and a.test != b.test


def _differs(pair: _Pair) -> dict[str, tuple[Any, Any]]:
    first, second = (
        {**_UNSAID, **run.row["convention"], **paired.convention, "precision": run.row["precision"]}
        for run, paired in zip(pair.runs, pair.paired)
    )
    both = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: (one, other) for key, (one, other) in both.items() if one != other}


def _pairs(
    addresses: Sequence[tuple[RunAddress, RunAddress]],
) -> tuple[list[_Pair], dict[str, str], dict[str, str]]:
    """The pairs of runs that fit together, and why others and their metrics do not.

    Raises DataError if a single pair does not.
    """
    both = [(_load(*a), _load(*b)) for a, b in addresses]
    named = with_distinct_names([a.row for a, _ in both])
    pairs, unfit, metrics = [], {}, {}
    for (a, b), row in zip(both, named):
        try:
            pair = _pair(*_aligned(_checked(a), _checked(b)))
        except DataError as error:
            if len(both) == 1:
                raise
            unfit[f"{row['task']} on {row['dataset']}"] = str(error)
            names = (metric_name(each["metric"], each["slice"]) for each in (*a.rows, *b.rows))
            metrics |= dict.fromkeys(names, str(error))
        else:
            pairs.append(pair._replace(dataset=row["dataset"]))
    return pairs, unfit, metrics


def _load(root: Path, run_id: str) -> _Run:
    store = ResultStore(root)
    return _Run(store.run(run_id), store.images(run_id).to_pydict())


def _checked(run: _Run) -> _Run:
    row, run_id = run.row, run.row["run_id"]
    version = find_task(row["task"]).version
    if row["task_version"] != version:
        raise DataError(
            f"{run_id} was made by version {row['task_version']} of the task {row['task']!r}, this clipjax "
            f"has version {version}: run it again"
        )
    if not run.columns.get("id"):
        raise DataError(
            f"{run_id} has no images to compare by ({row['note'] or 'its per-image table is empty'})"
        )
    return run


def _aligned(a: _Run, b: _Run) -> tuple[_Run, _Run]:
    names = a.row["run_id"], b.row["run_id"]
    ids = a.columns["id"], b.columns["id"]
    for name, own in zip(names, ids):
        if len(set(own)) != len(own):
            raise DataError(f"{name}: an image id occurs twice in its per-image table: they cannot be joined")
    row_of = {name: row for row, name in enumerate(ids[1])}
    common = sum(name in row_of for name in ids[0])
    if not common == len(ids[0]) == len(ids[1]):
        raise DataError(
            f"{names[0]} has {len(ids[0])} images and {names[1]} {len(ids[1])}, {common} in common: evaluate "
            "both on the same images (the same --limit and --seed, none skipped)"
        )
    for part in ("images", "id"):
        one, other = (_digest(run.row["recipe"].get(part)) for run in (a, b))
        if None not in (one, other) and one != other:
            raise DataError(
                f"{names[0]} and {names[1]} have images of the same names, with other contents, labels or "
                "columns: evaluate both on the same data"
            )
    order = [row_of[name] for name in ids[0]]
    return a, _Run(b.rows, {name: [values[i] for i in order] for name, values in b.columns.items()})


def _digest(part: Any) -> str | None:
    return part.get("images") if isinstance(part, dict) else part


# Numbers.


def _pair(a: _Run, b: _Run) -> _Pair:
    """Two runs with what they are compared by, and nothing tested yet."""
    names, task = f"{a.row['run_id']} and {b.row['run_id']}", find_task(a.row["task"])
    if task.paired is None:
        raise DataError(f"{names}: the task {task.name!r} does not say what its runs are compared by")
    about = About(a.row["dataset"], None)
    try:
        one, other = (task.paired(run.columns, about) for run in (a, b))
        n = len(a.columns["id"])
        pair = _Pair((a, b), (_completed(one, other, n), _completed(other, one, n)), {}, [], {})
        first, second = (values_of(each, n) for each in pair.paired)
        pair.left_out.update(_left_out(pair, [first, second]))
    except (ValueError, KeyError) as error:
        raise DataError(f"{names} cannot be compared: {error}") from None
    pair.values.update({k: (v, second[k]) for k, v in first.items() if k not in pair.left_out})
    return pair


def _completed(own: Paired, other: Paired, n: int) -> Paired:
    """Add the metrics that only the other run has, where `same` names what they would be here."""
    if not (names := {name: of for name, of in own.same.items() if name in values_of(other, n)}):
        return own

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {} if own.resampled is None else own.resampled(weights)
        return values | {name: weighted_mean(own.right[of], weights) for name, of in names.items()}

    return replace(own, resampled=resampled)


def _compare(pair: _Pair, resamples: int, seed: int) -> None:
    """Fill `found`."""
    names = " and ".join(run.row["run_id"] for run in pair.runs)
    try:
        about = About(pair.runs[0].row["dataset"], None, resamples=resamples, seed=seed)
        numbers, without = differences(pair.paired, pair.values, len(pair.runs[0].columns["id"]), about)
    except (ValueError, KeyError) as error:
        raise DataError(f"{names} cannot be compared: {error}") from None
    pair.found.extend(numbers)
    headlines = pair.headlines
    pair.left_out.update(
        {k: f"a headline without a test: {why}" if k in headlines else why for k, why in without.items()}
    )


def _reasons(pair: _Pair) -> str:
    """Explain why no metric of the pair is compared."""
    names: dict[str, list[str]] = {}
    for name, why in pair.left_out.items():
        names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(of)}: {why}" for why, of in names.items()) or "no labels"


def _of_other_annotations(pair: _Pair) -> Sequence[str]:
    """Metrics of annotations that the runs do not share. Raises DataError if all are."""
    names, digests = pair.paired[0].annotated, [run.row["recipe"].get("annotations") for run in pair.runs]
    if digests[0] == digests[1]:
        return ()
    if names is None and None not in digests:
        a, b = (run.row["run_id"] for run in pair.runs)
        raise DataError(f"{a} and {b} have other annotations: evaluate both with the same (--annotations)")
    return names or ()


def _left_out(pair: _Pair, values: list[dict[str, float]]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for run, own in zip(pair.runs, values):
        without = {
            metric_name(row["metric"], row["slice"]): row["note"] for row in run.rows if row["value"] is None
        }
        for name in values[0] | values[1]:
            if name in without:
                reasons[name] = f"{run.row['run_id']} has no value ({without[name]})"
            elif name not in own or np.isnan(own[name]):
                reasons[name] = f"{run.row['run_id']} has no value"
    one, other = (paired.over for paired in pair.paired)
    for name in one:
        if name in other and not np.array_equal(one[name], other[name]):
            reasons[name] = "the runs have it over other images"
    shared = [name for name in _of_other_annotations(pair) if name in values[0] | values[1]]
    reasons |= dict.fromkeys(shared, "the runs have other annotations")
    return {**reasons, **pair.paired[0].untested, **pair.paired[1].untested}
