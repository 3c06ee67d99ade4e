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

from clipjax.errors import DataError, counted, unknown_name
from clipjax.evaluation.run_pairs import Choice, pairs_of
from clipjax.metrics.uncertainty.bootstrap import (
    RESAMPLES,
    Resampling,
    bootstrap,
    differ,
    draws_for,
    percentile_interval,
    two_sided_p,
    weighted_mean,
)
from clipjax.metrics.uncertainty.intervals import Interval, paired_difference
from clipjax.metrics.uncertainty.paired import count_discordant, holm, mcnemar_exact
from clipjax.results.row import Row, metric_name
from clipjax.results.store import ResultStore
from clipjax.tasks.task import About, Columns, Paired, check_bootstrap, find_task


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs.

    Attributes:
        metric: with its slice ("auroc score:msp").
        difference: second - first.
        interval: None if all resamples are equal.
        p_value: two-sided, of this metric alone.
        p_holm: corrected for the headlines of the call; None for a metric that is no headline of its task.
        test: "mcnemar_exact" or "paired_bootstrap_1000", with p of at least 2 / 1001.
        gained, lost: images that only the second or only the first run has right; None for other metrics.
        differs: other differences between the runs ("prompts": (first's, second's)).
        left_out: metrics that are not compared -> why.
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
    same_as: tuple[str, ...] = ()


# The default that a row's convention leaves out.
_UNSAID = {"decode": "full"}


class _Run(NamedTuple):
    rows: list[Row]
    columns: Columns

    @property
    def row(self) -> Row:
        return self.rows[0]


class _Found(NamedTuple):
    metric: str
    first: float
    second: float
    interval: Interval | None
    p_value: float
    test: str
    n: int
    gained: int | None = None
    lost: int | None = None


class _Pair(NamedTuple):
    """The images are in the same order."""

    runs: tuple[_Run, _Run]
    paired: tuple[Paired, Paired]
    values: dict[str, tuple[float, float]]
    found: list[_Found]
    left_out: dict[str, str]

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
        first, second: a run id in `results`, the folder of a run, or a model's id. Named runs may differ;
            models' runs are paired by `clipjax.evaluation.run_pairs`.
        metrics: only these; the correction is for the headlines among them.
        resamples: at least; more if the correction needs them.
        prompts, precision, labels: choose among a model's runs: a prompt set, "parity" or "fast", a label
            space.

    Raises:
        UsageError: no run, model or metric of that name; both are one run; or several pairs of runs match.
        DataError: the runs differ in task, data set, images or annotations, or another version made them; no
            runs match; or one of `metrics` cannot be compared.
    """
    check_bootstrap(resamples, seed)
    choice = Choice(prompts, precision, labels)
    addresses, unlike = pairs_of((str(first), str(second)), Path(results), choice)
    pairs = [_pair(*_aligned(_load(*a), _load(*b))) for a, b in addresses]
    tests = [(name, pair) for pair in pairs for name in pair.headlines if not metrics or name in metrics]
    if any(name not in pair.paired[0].right for name, pair in tests):  # McNemar's test needs no draws
        resamples = max(resamples, draws_for(len(tests)))
    for pair in pairs:
        _compare(pair, resamples, seed)
    pairs = _with_numbers(pairs, unlike)
    _check_metrics(metrics, pairs)
    chosen = [(each, pair) for pair in pairs for each in pair.found if not metrics or each.metric in metrics]
    tested = [i for i, (each, pair) in enumerate(chosen) if each.metric in pair.headlines]
    corrected = dict(zip(tested, holm([chosen[i][0].p_value for i in tested]).tolist()))
    return [_comparison(each, corrected.get(i), pair) for i, (each, pair) in enumerate(chosen)]


def _check_metrics(metrics: Sequence[str], pairs: list[_Pair]) -> None:
    known = {each.metric for pair in pairs for each in pair.found}
    left_out = {name: why for pair in pairs for name, why in pair.left_out.items()}
    for name in metrics:
        if name not in known and name in left_out:
            raise DataError(f"{name} cannot be compared: {left_out[name]}")
        if name not in known:
            raise unknown_name("metric", name, sorted(known))


def _comparison(numbers: _Found, p_holm: float | None, pair: _Pair) -> Comparison:
    a, b = pair.runs
    return Comparison(
        task=a.row["task"],
        dataset=a.row["dataset"],
        difference=numbers.second - numbers.first,
        p_holm=p_holm,
        runs=(a.row["run_id"], b.row["run_id"]),
        models=(a.row["model"], b.row["model"]),
        differs=_differs(pair),
        left_out=pair.left_out,
        same_as=tuple(each.metric for each in pair.found if _one_difference(each, numbers)),
        **numbers._asdict(),
    )


def _one_difference(a: _Found, b: _Found) -> bool:
    """Top-1 and the mean per class of a balanced data set, for instance."""
    same = math.isclose(a.first, b.first) and math.isclose(a.second, b.second)
    return same and a.first != a.second and a.test != b.test


def _differs(pair: _Pair) -> dict[str, tuple[Any, Any]]:
    words = [
        {**_UNSAID, **run.row["convention"], **paired.convention, "precision": run.row["precision"]}
        for run, paired in zip(pair.runs, pair.paired)
    ]
    keys = [key for key in words[0] | words[1] if words[0].get(key) != words[1].get(key)]
    return {key: (words[0].get(key), words[1].get(key)) for key in keys}


def _load(root: Path, run_id: str) -> _Run:
    store = ResultStore(root)
    rows, columns = store.run(run_id), store.images(run_id).to_pydict()
    row = rows[0]
    version = find_task(row["task"]).version
    if row["task_version"] != version:
        raise DataError(
            f"{run_id} was made by version {row['task_version']} of the task {row['task']!r}, this clipjax "
            f"has version {version}: run it again"
        )
    if not columns.get("id"):
        raise DataError(
            f"{run_id} has no images to compare by ({row['note'] or 'its per-image table is empty'})"
        )
    return _Run(rows, columns)


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
        first, second = (_values(each, n) for each in pair.paired)
        pair.left_out.update(_left_out(pair, [first, second]))
    except (ValueError, KeyError) as error:
        raise DataError(f"{names} cannot be compared: {error}") from None
    pair.values.update({k: (v, second[k]) for k, v in first.items() if k not in pair.left_out})
    return pair


def _completed(own: Paired, other: Paired, n: int) -> Paired:
    """Also with the metrics that the other run alone has, where `same` names what they would be here."""
    if not (names := {name: of for name, of in own.same.items() if name in _values(other, n)}):
        return own

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {} if own.resampled is None else own.resampled(weights)
        return values | {name: weighted_mean(own.right[of], weights) for name, of in names.items()}

    return replace(own, resampled=resampled)


def _compare(pair: _Pair, resamples: int, seed: int) -> None:
    """Fill `found`."""
    names = " and ".join(run.row["run_id"] for run in pair.runs)
    try:
        _fill(pair, About(pair.runs[0].row["dataset"], None, resamples=resamples, seed=seed))
    except (ValueError, KeyError) as error:
        raise DataError(f"{names} cannot be compared: {error}") from None


def _with_numbers(pairs: Sequence[_Pair], unlike: Mapping[str, str]) -> list[_Pair]:
    """The pairs that have any; the first one's `left_out` names the others. Raises DataError if none has."""
    empty = {}
    for pair in pairs:
        if not pair.found:
            names: dict[str, list[str]] = {}
            for name, why in pair.left_out.items():
                names.setdefault(why, []).append(name)
            reasons = "; ".join(f"{', '.join(of)}: {why}" for why, of in names.items()) or "no labels"
            empty[f"{pair.runs[0].row['task']} on {pair.runs[0].row['dataset']}"] = reasons
    kept = [pair for pair in pairs if pair.found]
    if not kept:
        ids = " and ".join(run.row["run_id"] for run in pairs[0].runs)
        words = "; ".join(f"{name} ({why})" for name, why in empty.items())
        raise DataError(f"{ids} have nothing to compare by: {words}")
    kept[0].left_out.update({**unlike, **empty})
    return kept


def _of_other_annotations(pair: _Pair) -> Sequence[str]:
    """Metrics of annotations that the runs do not share. Raises DataError if all are."""
    names, digests = pair.paired[0].annotated, [run.row["recipe"].get("annotations") for run in pair.runs]
    if digests[0] == digests[1]:
        return ()
    if names is None and None not in digests:
        a, b = (run.row["run_id"] for run in pair.runs)
        raise DataError(f"{a} and {b} have other annotations: evaluate both with the same (--annotations)")
    return names or ()


def _fill(pair: _Pair, about: About) -> None:
    one, other = pair.paired
    pair.found.extend(
        _proportion(name, one.right[name], other.right[name]) for name in pair.values if name in one.right
    )
    if drawn := {name: both for name, both in pair.values.items() if name not in one.right}:
        resampled, without = _resampled(pair.paired, drawn, len(pair.runs[0].columns["id"]), about)
        pair.found.extend(resampled)
        pair.left_out.update(without)


def _values(paired: Paired, n: int) -> dict[str, float]:
    values = {name: float(np.mean(right)) for name, right in paired.right.items()}
    if paired.resampled is None:
        return values
    once = paired.resampled(np.ones((1, n), np.int64))
    return values | {name: float(value[0]) for name, value in once.items()}


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
    clusters = set(pair.paired[0].clusters or ())
    if clusters and len(clusters) < pair.paired[0].fewest:
        drawn = [name for name in values[0] if name not in pair.paired[0].right]
        why = f"{counted(len(clusters), 'cluster')}, and fewer than {pair.paired[0].fewest} tell too little"
        reasons |= dict.fromkeys(drawn, why)
    shared = [name for name in _of_other_annotations(pair) if name in values[0] | values[1]]
    return reasons | dict.fromkeys(shared, "the runs have other annotations")


def _proportion(metric: str, first: np.ndarray, second: np.ndarray) -> _Found:
    gained, lost = count_discordant(first, second)
    n, test = len(first), mcnemar_exact(gained, lost)
    interval = paired_difference(gained, lost, n)
    values = float(np.mean(first)), float(np.mean(second))
    return _Found(metric, *values, interval, test.p_value, test.method, n, gained, lost)


def _resampled(
    both: tuple[Paired, Paired], values: Mapping[str, tuple[float, float]], n: int, about: About
) -> tuple[list[_Found], dict[str, str]]:
    """Metrics that are not proportions, and why others are left out."""
    first, second = (paired.resampled for paired in both)
    assert first is not None
    assert second is not None
    try:
        rows, samples = _samples(both[0], n, about)
    except ValueError as error:  # too little to draw from
        return [], dict.fromkeys(values, str(error))

    def difference(*parts: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.empty((len(parts[0]), n), np.int64)
        for own, part in zip(rows, parts):
            weights[:, own] = part
        before, after = first(weights), second(weights)
        return {name: after[name] - before[name] for name in values}

    numbers, left_out = [], {}
    clustered, test = both[0].clusters is not None, f"paired_bootstrap_{about.resamples}"
    for name, drawn in bootstrap(difference, *samples).items():
        if without := int(np.isnan(drawn).sum()):
            left_out[name] = f"{without} of {len(drawn)} resamples have no value"
            continue
        kind = {"clustered": clustered, "crossed": bool(both[0].crossed)}
        interval = percentile_interval(drawn, **kind) if differ(drawn) else None
        numbers.append(_Found(name, *values[name], interval, two_sided_p(drawn), test, n))
    return numbers, left_out


def _samples(paired: Paired, n: int, about: About) -> tuple[list[np.ndarray], list[Resampling]]:
    groups = np.zeros(n, int) if paired.groups is None else np.asarray(paired.groups, object)
    clusters = np.full(n, None) if paired.clusters is None else np.asarray(paired.clusters, object)
    names = list(dict.fromkeys(groups.tolist()))
    rows = [np.flatnonzero(groups == name) for name in names]
    samples = []
    for name, own in zip(names, rows):
        alone = clusters[own[0]] is None
        codes = None if alone else _codes(clusters[own].astype(str))
        data = about.dataset if paired.groups is None else str(name)
        crossed = tuple(_codes(np.asarray(factor, str)[own]) for factor in paired.crossed)
        samples.append(Resampling(data, len(own), codes, about.resamples, about.seed, crossed))
    return rows, samples


def _codes(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]
