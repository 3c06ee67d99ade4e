"""Run the items of a plan that are not done yet.

    report = run_sweep(plan, plan.items, compute, results, tell=print)

A failing model does not stop the others; a full disk stops the sweep. Processes take the same steps: the
first decides what is skipped, and if a model fails to load on one, all drop it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.checkpoints.encoder import Encoder
from clipjax.devices.agreement import assert_same_everywhere, failed_process, on_all
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.forward import Program, compiled
from clipjax.embeddings.params import dtype_to_load, mesh_to_load
from clipjax.errors import ClipjaxError, DataError, counted, type_and_line
from clipjax.evaluation.collection import Done as Outcome
from clipjax.evaluation.collection import evaluate_all
from clipjax.evaluation.rows import Result
from clipjax.results.rows import headline
from clipjax.sweep import cost
from clipjax.sweep.models import loaded, opened
from clipjax.sweep.plan import Item, SweepPlan
from clipjax.sweep.predictions import run_predictions
from clipjax.sweep.state import Done, is_done, target_of

_log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class Failure(NamedTuple):
    """`what`: a run, or all runs of a model."""

    what: str
    reason: str


@dataclass
class Report:
    """The outcome of a sweep.

    Attributes:
        runs: done now.
        skipped: done before.
        compiles: how often each tower was compiled.
    """

    runs: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    stats: list[EmbedStats] = field(default_factory=list)
    compiles: Counter[Program] = field(default_factory=Counter)

    def note(self, result: Result) -> None:
        self.runs += 1
        self.stats.append(result.stats)


def run_sweep(
    plan: SweepPlan,
    items: Sequence[Item],
    compute: Compute,
    results: Path,
    *,
    tell: Tell = lambda _: None,
    advance: Callable[[int], object] = lambda _: None,
) -> Report:
    """Run the items that have no result yet.

    Args:
        items: of the plan, in its order.
        compute: settings that the suite leaves open; has a store.
        advance: receives the number of items completed since its last call.

    Raises:
        DataError: processes differ in runs or images (before any embedding); unreadable results; a full disk.
        Interrupted: a signal came.
    """
    check_same(plan)
    plan.loaded.results = results
    how = replace(compute, progress=compute.progress and jax.process_index() == 0)
    done = on_all(lambda: Done(results), "read the results")
    report, before = Report(), Counter(compiled)
    progress = _Progress(items, tell, advance)
    for _, group in itertools.groupby(items, key=lambda item: (item.chosen.name, item.keep_pixels)):
        visit = list(group)
        on_all(done.update, "read the results")
        todo = _not_done(visit, done, plan, how, report)
        progress.skip([item for item in visit if item not in todo])
        if todo:
            _visit(todo, plan, how, results, report, progress)
    report.compiles = Counter(compiled) - before
    return report


def check_same(plan: SweepPlan) -> None:
    """Raise DataError on every process if one has other runs or images."""
    if jax.process_count() == 1:
        return
    assert_same_everywhere("the sweep", f"{len(plan.items)} runs ({plan.digest[:16]})")
    located = {data.card.name: data for item in plan.items for data in cost.parts(item.job)}
    for name in sorted(located):
        try:
            manifest = plan.loaded.dataset(located[name]).manifest
            summary = f"{len(manifest)} images ({manifest.order_digest[:16]})"
        except ClipjaxError as error:
            summary = str(error)
        assert_same_everywhere(f"the data set {name}", summary)


def _not_done(
    visit: Sequence[Item], done: Done, plan: SweepPlan, compute: Compute, report: Report
) -> list[Item]:
    chosen = visit[0].chosen
    model, failure = None, None
    try:
        model = opened(chosen)
        if model is not None:
            model.check_weights()
    except (ClipjaxError, OSError) as error:
        failure = error
    if (failed := failed_process(failure)) is not None:
        reason = str(failure) if failure is not None else f"see the message of process {failed}"
        report.failures.append(Failure(f"{chosen.title} ({counted(len(visit), 'run')})", reason))
        return []
    known = on_all(lambda: _known(model, visit, done, plan, compute), f"tell what of {chosen.title} is done")
    if jax.process_count() > 1:
        known = np.asarray(multihost_utils.broadcast_one_to_all(known))
    report.skipped += int(known.sum())
    return [item for item, is_known in zip(visit, known) if not is_known]


def _known(
    model: Encoder | None, visit: Sequence[Item], done: Done, plan: SweepPlan, compute: Compute
) -> np.ndarray:
    """bool [items]: which have results."""
    known = np.zeros(len(visit), bool)
    for i, item in enumerate(visit):
        try:
            target = target_of(model, item, plan.loaded, compute)
            known[i] = is_done(target, done, item)
        except ClipjaxError:
            continue  # its run reports it
    return known


def _visit(
    todo: Sequence[Item],
    plan: SweepPlan,
    compute: Compute,
    results: Path,
    report: Report,
    progress: _Progress,
) -> None:
    chosen, model, failure = todo[0].chosen, None, None
    if chosen.predictions is not None:
        _follow(todo, run_predictions(todo, plan.loaded, results), report, progress)
        return
    try:
        model = loaded(
            chosen,
            dtype=dtype_to_load({each for item in todo for each in item.request.precisions}),
            mesh_of=mesh_to_load(todo[0].computed(compute).params),
        )
    except Exception as error:  # e.g. out of memory
        failure = error
    if (failed := failed_process(failure)) is not None:
        reason = _reason(failure) if failure is not None else f"see the message of process {failed}"
        report.failures.append(Failure(f"{chosen.title} ({counted(len(todo), 'run')})", reason))
        progress.skip(todo)
        return
    for part in _of_same_options(todo):  # one call per set of options
        jobs = [item.job for item in part]
        runs = evaluate_all(
            model,
            jobs,
            part[0].request,
            part[0].computed(compute),
            results=results,
            loaded=plan.loaded,
            catch=Exception,
        )
        _follow(part, runs, report, progress)


def _follow(part: Sequence[Item], runs: Iterator[Outcome], report: Report, progress: _Progress) -> None:
    for item in part:
        progress.start(item)
        outcome = next(runs)
        _stop_at_full_disk(outcome.error)
        if outcome.result is not None:
            report.note(outcome.result)
            progress.end(item, headline(outcome.result.rows))
        else:
            assert outcome.error is not None
            reason = _reason(outcome.error)
            report.failures.append(Failure(str(item), reason))
            progress.end(item, f"failed: {reason}")


def _stop_at_full_disk(error: Exception | None) -> None:
    # All later runs would fail too.
    failure = error if _is_full_disk(error) else None
    failed = failed_process(failure)
    if failure is not None:
        raise DataError(f"the sweep has stopped at a full disk: {_reason(failure)}") from failure
    if failed is not None:
        raise DataError(f"the disk of process {failed} is full: see its message")


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_same_options(items: Sequence[Item]) -> Iterator[list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(repr(sorted(item.options.items())), []).append(item)
    yield from groups.values()


def _reason(error: Exception) -> str:
    """Foreign errors get their type, and their traceback is logged."""
    if isinstance(error, ClipjaxError):
        return str(error)
    _log.error("a run failed", exc_info=error)
    return type_and_line(error)


class _Progress:
    def __init__(self, items: Sequence[Item], tell: Tell, advance: Callable[[int], object]) -> None:
        self._tell, self._advance, self._count = tell, advance, len(items)
        self._left = sum(item.flops for item in items)
        self._number, self._done, self._seconds = 0, 0, 0.0
        self._started = 0.0

    def skip(self, items: Sequence[Item]) -> None:
        self._number += len(items)
        self._advance(len(items))
        self._left -= sum(item.flops for item in items)

    def start(self, item: Item) -> None:
        self._number += 1
        self._started = time.perf_counter()
        self._tell(f"[{self._number}/{self._count}] {item}")

    def end(self, item: Item, what: str) -> None:
        self._seconds += time.perf_counter() - self._started
        self._advance(1)
        self._done += item.flops
        self._left -= item.flops
        left = duration(self._seconds * self._left / max(self._done, 1))
        share = self._done / max(self._done + self._left, 1)
        self._tell(f"  {what}  [{share:.0%} of the work, about {left} left]")


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def complete(report: Report, plan: SweepPlan) -> None:
    """Raise DataError on every process if runs failed or named data sets are missing."""
    missing = list({entry.family: entry.line for entry in plan.missing if entry.named}.values())
    left = len(report.failures) + len(missing)
    failed = failed_process(DataError("") if left else None)
    if left:
        first = report.failures[0] if report.failures else Failure("a data set is not there", missing[0])
        parts = counted(left, "part")
        raise DataError(f"not done: {parts} of the sweep; the first: {first.what}: {first.reason}")
    if failed is not None:
        raise DataError(f"runs failed on process {failed}: see its message")
