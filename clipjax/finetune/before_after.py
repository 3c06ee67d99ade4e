"""Compare fine-tuned models with their base on one suite, image by image.

Accuracies use McNemar's test, other numbers a paired bootstrap. Over several seeds a number is the mean, and
its interval spans all seeds' intervals: a loss is reported only if every seed lost. Beside it stands the
interval of the mean over images and seeds, both random: it is about seeds that were not run. The suite fixes
the numbers before any data; the verdicts of a table are corrected for those with a better direction (Holm),
with as many resamples as that needs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from clipjax.checkpoints.model import Model
from clipjax.embeddings.compute import Compute
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.evaluation.comparison.compare import Comparison, compare_runs
from clipjax.evaluation.data_folder import in_one_line
from clipjax.evaluation.plans.collection import CollectionPlan, plan
from clipjax.evaluation.plans.execute import execute
from clipjax.evaluation.plans.item import Item, TaskOnData, items_of
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import Result
from clipjax.finetune.data.splits import Split, refuse_overlap
from clipjax.finetune.suites import FinetuneSuite, Metric
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES, draws_for
from clipjax.metrics.uncertainty.intervals import over_images_and
from clipjax.metrics.uncertainty.paired import holm
from clipjax.results.row import metric_name
from clipjax.storage.remote.buckets import as_path

ALPHA = 0.05  # of the verdicts of one table together


@dataclass(frozen=True)
class Change:
    """One line of the table.

    Attributes:
        before: the base's number; None if undefined, see `note`.
        after: one number per seed.
        intervals: paired 95 % interval of each seed's difference; None without width.
        n: images; None for a failed run.
        p_value: two-sided, the largest over the seeds; None if undefined.
        p_holm: corrected for the lines that can have a verdict; None for the others.
    """

    metric: Metric
    dataset: str
    before: float | None
    after: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    n: int | None
    note: str | None = None
    p_value: float | None = None
    p_holm: float | None = None

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.after) if self.after else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None for one seed."""
        return statistics.stdev(self.after) if len(self.after) > 1 else None

    @property
    def difference(self) -> float | None:
        return None if self.mean is None or self.before is None else self.mean - self.before

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lowest and highest limit over the seeds; None if one has no interval."""
        limits = [each for each in self.intervals if each is not None]
        if not limits or len(limits) < len(self.intervals):
            return None
        return min(lo for lo, _ in limits), max(hi for _, hi in limits)

    @property
    def over_seeds(self) -> tuple[float, float] | None:
        """95 % interval of `difference` over images and seeds; None for one seed, or as `interval`."""
        limits = [each for each in self.intervals if each is not None]
        if self.before is None or len(limits) < max(2, len(self.intervals)):
            return None
        changes = np.array(self.after) - self.before
        lows, highs = np.array(limits).T
        both = over_images_and("seeds", changes, lows, highs)
        return both.lo, both.hi

    @property
    def verdict(self) -> str | None:
        """The direction; None if the interval includes zero, chance explains it, or neither way is better."""
        if self.interval is None or self.metric.better == "neither":
            return None
        lo, hi = self.interval
        if lo <= 0 <= hi or (self.p_holm is not None and self.p_holm > ALPHA):
            return None
        return "gained" if (lo > 0) == (self.metric.better == "higher") else "lost"


def before_and_after(
    base: Model,
    tuned: Sequence[Model],
    suite: FinetuneSuite,
    data_root: str | Path,
    results: str | Path,
    *,
    compute: Compute,
    request: Request | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Change]:
    """Evaluate the base and its tuned models (one per seed) on the suite, and compare them.

    `request` is for all runs, except data sets and prompts.

    Returns: the table; empty on all processes but the first.

    Raises:
        UsageError: a suite without metrics, or no tuned model.
        DataError: `data_root` lacks the whole suite.
    """
    if not suite.metrics or not tuned:
        raise UsageError(
            f"the suite {suite.name} has no [[metrics]] to compare by, or there is no tuned model"
        )
    jobs = jobs_of(suite, data_root)
    for line in left_out(suite, data_root):
        announce(line)
    asked = Request() if request is None else request
    runs = [_evaluate(model, jobs, asked, compute, results, announce) for model in (base, *tuned)]
    if jax.process_index() > 0:  # only the first process has written rows to compare
        return []
    judged = [metric for metric in suite.metrics if metric.better != "neither"]
    lines = sum(metric.task == task for task, _ in jobs for metric in judged)
    folder, resamples = as_path(results), max(RESAMPLES, draws_for(lines))
    changes = [
        change
        for key in jobs
        for change in _changes(key, [run[key] for run in runs], suite, folder, resamples)
    ]
    order = [(metric.task, metric.metric, metric.slice) for metric in suite.metrics]
    changes.sort(key=lambda c: order.index((c.metric.task, c.metric.metric, c.metric.slice)))
    return corrected(changes)


def corrected(changes: Sequence[Change]) -> list[Change]:
    """The lines that can have a verdict, with p-values corrected for their number (Holm), as in `compare`."""
    tested = {
        number: each.p_value
        for number, each in enumerate(changes)
        if each.p_value is not None and each.metric.better != "neither"
    }
    adjusted = dict(zip(tested, holm(list(tested.values()))))
    return [
        replace(each, p_holm=float(adjusted[number])) if number in adjusted else each
        for number, each in enumerate(changes)
    ]


_Key = tuple[str, str]


def left_out(suite: FinetuneSuite, data_root: str | Path) -> list[str]:
    """A line with the number of data sets of the suite that the folder lacks; none if it has all."""
    lines = in_one_line(_missing(suite, data_root), data_root)
    return [f"left out of the table: {line}" for line in lines]


def _missing(suite: FinetuneSuite, data_root: str | Path) -> list[str]:
    families = {name.partition(":")[0] for name in suite.datasets}
    lines: dict[str, None] = {}
    parts = sorted(_parts(suite, data_root), key=lambda part: isinstance(part, DataError))
    for entry in parts:
        missing = [str(entry)] if isinstance(entry, DataError) else entry.missing
        lines |= dict.fromkeys(
            line for line in missing if not families or any(f"{name} (" in line for name in families)
        )
    return list(lines)


def _parts(suite: FinetuneSuite, data_root: str | Path) -> list[CollectionPlan | DataError]:
    plans: list[CollectionPlan | DataError] = []
    for name in suite.run:
        try:
            plans.append(plan(name, data_root))
        except DataError as error:
            plans.append(error)
    return plans


def jobs_of(suite: FinetuneSuite, data_root: str | Path) -> dict[_Key, TaskOnData]:
    """The runs in the folder, by task and data set. Raises DataError if it holds none of the data sets."""
    jobs: dict[_Key, TaskOnData] = {}
    why: DataError | None = None
    tasks = {metric.task for metric in suite.metrics}
    for entry in _parts(suite, data_root):
        if isinstance(entry, DataError):
            why = entry
            continue
        jobs |= {
            (job.task, job.data.card.name): job
            for job in entry.jobs
            if job.task in tasks and (not suite.datasets or job.data.card.name in suite.datasets)
        }
    if not jobs and suite.datasets:
        names = ", ".join(suite.datasets)
        raise DataError(f"{data_root} holds none of the data sets of the suite {suite.name}: {names}")
    if not jobs:
        raise why or DataError(f"{data_root} holds none of the data sets of the suite {suite.name}")
    return jobs


def refuse_leaks(splits: Sequence[Split], suite: FinetuneSuite, data_root: str | Path) -> None:
    """Raise DataError if the suite reports on training or validation images."""
    sets = {
        (data.card.name, data.root): data
        for job in jobs_of(suite, data_root).values()
        for data in (job.data, job.id)
        if data is not None
    }
    for data in sets.values():
        try:
            manifest = data.dataset.manifest
        except DataError:
            continue  # unreadable data are not reported on either
        for split in splits:
            refuse_overlap(split, manifest)


def evaluate_suite(
    model: Model,
    suite: FinetuneSuite,
    data_root: str | Path,
    announce: Callable[[str], None],
    *,
    compute: Compute,
    request: Request | None = None,
    results: str | Path | None = None,
) -> dict[tuple[str, str], Result | Exception]:
    """Evaluate one model: results, or why they failed, by task and data set. Errors as `before_and_after`."""
    asked = Request() if request is None else request
    return _evaluate(model, jobs_of(suite, data_root), asked, compute, results, announce)


def _evaluate(
    model: Model,
    jobs: dict[_Key, TaskOnData],
    request: Request,
    compute: Compute,
    results: str | Path | None,
    announce: Callable[[str], None],
) -> dict[_Key, Result | Exception]:
    def say(number: int, of: int, item: Item) -> None:
        announce(f"[{number}/{of}] {item}")

    outcomes: dict[_Key, Result | Exception] = {}
    for outcome in execute(items_of(model, jobs.values(), request), compute, results, announce=say):
        job = outcome.item.job
        key = job.task, job.data.card.name
        if outcome.error is not None:
            announce(f"  failed: {outcome.reason}")
            outcomes[key] = outcome.error
        elif outcome.result is not None:
            outcomes[key] = outcome.result
    return outcomes


def _changes(
    key: _Key, results: Sequence[Result | Exception], suite: FinetuneSuite, folder: Path, resamples: int
) -> Iterator[Change]:
    """One task on one data set: a change for each metric that the suite names, over all seeds.

    Args:
        results: the base's, then one per seed. One that failed makes all changes failures.
    """
    task, dataset = key
    wanted = [metric for metric in suite.metrics if metric.task == task]
    runs = [each for each in results if isinstance(each, Result)]
    if failed := [each for each in results if isinstance(each, Exception)]:
        yield from (Change(each, dataset, None, (), (), None, f"failed: {failed[0]}") for each in wanted)
        return
    compared = [_compared(runs[0], each, folder, resamples) for each in runs[1:]]
    for metric in wanted:
        name = metric_name(metric.metric, metric.slice)
        by_seed = [each.get(name) for each in compared]
        pairs = [each for each in by_seed if isinstance(each, Comparison)]
        if pairs and len(pairs) == len(by_seed):
            yield _change(metric, dataset, pairs)
        else:
            why = next((each for each in by_seed if isinstance(each, str)), "not compared")
            yield _undefined(metric, runs, why)


def _change(metric: Metric, dataset: str, by_seed: Sequence[Comparison]) -> Change:
    ends = [each.interval for each in by_seed]
    intervals = tuple(None if each is None else (each.lo, each.hi) for each in ends)
    after = tuple(each.second for each in by_seed)
    # A change holds if every seed has it: the largest p-value counts.
    worst = max(each.p_value for each in by_seed)
    return Change(metric, dataset, by_seed[0].first, after, intervals, by_seed[0].n, p_value=worst)


def _compared(base: Result, tuned: Result, folder: Path, resamples: int) -> dict[str, Comparison | str]:
    """Comparisons by metric, or why a metric is not compared."""
    ids = base.rows[0]["run_id"], tuned.rows[0]["run_id"]
    try:
        comparisons = compare_runs(*ids, folder, resamples=resamples)
    except ClipjaxError:
        return {}
    return {**comparisons[0].left_out, **{each.metric: each for each in comparisons}}


def _undefined(metric: Metric, results: Sequence[Result], why: str) -> Change:
    rows = []
    for result in results:
        own = [r for r in result.rows if r["metric"] == metric.metric and r["slice"] == metric.slice]
        rows.append(own[0] if own else None)
    values = [None if row is None else row["value"] for row in rows]
    notes = [row["note"] for row in rows if row is not None and row["value"] is None and row["note"]]
    after = tuple(value for value in values[1:] if value is not None)
    first = results[0].rows[0]
    intervals = (None,) * len(after)
    note = notes[0] if notes else why
    return Change(metric, first["dataset"], values[0], after, intervals, first["n"], note)
