"""Run the items of a plan that are not done yet.

    report = run_sweep(plan, plan.items, compute, results, tell=print)

A failing model does not stop the others; a full disk stops the sweep. The first process reports how far it is
(`job_reports`).
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from clipjax.devices.agreement import assert_same_everywhere, failed_process, on_all
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.forward import ProgramKey, compiled
from clipjax.errors import ClipjaxError, DataError, counted
from clipjax.estimates import cost
from clipjax.evaluation.plans.execute import ItemOutcome, execute
from clipjax.evaluation.plans.item import Item
from clipjax.evaluation.plans.ready import StoredRecipes
from clipjax.results.rows import headline
from clipjax.results.runs.failed_runs import key_name
from clipjax.results.tracking.tracking import Tracking
from clipjax.sweep.job_reports import JobReport, SweepJob, duration
from clipjax.sweep.plan import SweepItem, SweepPlan

Tell = Callable[[str], None]


class Failure(NamedTuple):
    """`what`: a run, or all runs of a model."""

    what: str
    reason: str


@dataclass
class SweepReport:
    """The outcome of a sweep.

    Attributes:
        runs: done now.
        skipped: done before.
        compiles: how often each program was compiled.
    """

    runs: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)
    stats: list[EmbedStats] = field(default_factory=list)
    compiles: Counter[ProgramKey] = field(default_factory=Counter)

    def note(self, outcome: ItemOutcome) -> None:
        if outcome.error is not None:
            self.failures.append(Failure(outcome.what, outcome.reason))
        elif outcome.result is not None:
            self.runs += 1
            self.stats.append(outcome.result.stats)
        else:
            self.skipped += len(outcome.items)


def run_sweep(
    plan: SweepPlan,
    items: Sequence[SweepItem],
    compute: Compute,
    results: Path,
    *,
    part: str = "1/1",
    retry: bool = True,
    track: Sequence[str] = (),
    tell: Tell = lambda _: None,
    advance: Callable[[int], object] = lambda _: None,
) -> SweepReport:
    """Run the items that have no result yet.

    Args:
        items: of the plan, in its order.
        part: which part of the plan the items are, as in `--shard`.
        retry: as in `execute`.
        track: trackers that show each finished run.
        compute: settings that the suite leaves open; has a store.
        advance: receives the number of items completed since its last call.

    Raises:
        DataError: processes differ in runs or images (before any embedding); unreadable results; a full disk.
        Interrupted: a signal came.
    """
    check_same(plan)
    how = replace(compute, progress=compute.progress and jax.process_index() == 0)
    with on_all("read the results"):
        done = StoredRecipes(results)
    report, before = SweepReport(), Counter(compiled)
    with contextlib.ExitStack() as ends:
        job = None
        if jax.process_index() == 0:
            job = ends.enter_context(JobReport(results, _job(plan, items, part)))
        tracking = Tracking(track if jax.process_index() == 0 else (), group=plan.suite.name)
        progress = _Progress(items, tell, advance, job)
        options: dict[str, Any] = {"done": done, "retry": retry, "announce": progress.start}
        for outcome in execute(items, how, results, **options, catch=Exception):
            _stop_at_full_disk(outcome)
            report.note(outcome)
            progress.end(outcome)
            if outcome.result is not None:
                tracking.result(outcome.result.rows, results)
    report.compiles = Counter(compiled) - before
    return report


def _job(plan: SweepPlan, items: Sequence[SweepItem], part: str) -> SweepJob:
    work = cost.total_flops(items)
    return SweepJob(
        suite=plan.suite.name,
        plan=plan.digest,
        part=part,
        processes=jax.process_count(),
        plan_runs=len(plan.items),
        plan_work=cost.total_flops(plan.items),
        runs=len(items),
        work=work,
        work_left=work,
        missing=tuple(plan.missing_line(named=True)),
    )


def check_same(plan: SweepPlan) -> None:
    """Raise DataError on every process if one has other runs or images."""
    if jax.process_count() == 1:
        return
    assert_same_everywhere("the sweep", f"{len(plan.items)} runs ({plan.digest[:16]})")
    sets = {data.card.name: data for item in plan.items for data in cost.parts(item.job)}
    for name in sorted(sets):
        try:
            manifest = sets[name].dataset.manifest
            summary = f"{len(manifest)} images ({manifest.order_digest[:16]})"
        except ClipjaxError as error:
            summary = str(error)
        assert_same_everywhere(f"the data set {name}", summary)


def _stop_at_full_disk(outcome: ItemOutcome) -> None:
    """Raise DataError on every process if the disk of one is full: all later runs would fail too."""
    if not outcome.ran:  # nor do the other processes ask each other then
        return
    failure = outcome.error if _is_full_disk(outcome.error) else None
    failed = failed_process(failure)
    if failure is not None:
        raise DataError(f"the sweep has stopped at a full disk: {outcome.reason}") from failure
    if failed is not None:
        raise DataError(f"the disk of process {failed} is full: see its message")


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Progress:
    """How far a sweep is: on stderr, and in the report of the first process."""

    def __init__(
        self,
        items: Sequence[SweepItem],
        tell: Tell,
        advance: Callable[[int], object],
        job: JobReport | None,
    ) -> None:
        self._tell, self._advance, self._job = tell, advance, job
        self._flops = {id(item): item.flops for item in items}
        self._keys = {id(item): key_name(item.key) for item in items}
        self._left = sum(self._flops.values())
        self._made, self._seconds, self._started = 0, 0.0, 0.0
        self._done, self._failed = 0, list[str]()

    def start(self, number: int, of: int, item: Item) -> None:
        self._started = time.perf_counter()
        self._tell(f"[{number}/{of}] {item}")
        self._report(item=str(item), item_time=time.time())

    def end(self, outcome: ItemOutcome) -> None:
        """Count items as ended. The work of skipped ones is no longer left, and was not done either."""
        flops = sum(self._flops[id(item)] for item in outcome.items)
        self._advance(len(outcome.items))
        self._left -= flops
        if outcome.error is None:
            self._done += len(outcome.items)
        else:
            self._failed += [self._keys[id(item)] for item in outcome.items]
        if outcome.ran:
            self._seconds += time.perf_counter() - self._started
            self._made += flops
            left = duration(self._seconds * self._left / max(self._made, 1))
            share = self._made / max(self._made + self._left, 1)
            what = f"failed: {outcome.reason}" if outcome.result is None else headline(outcome.result.rows)
            self._tell(f"  {what}  [{share:.0%} of the work, about {left} left]")
        self._report(item=None)

    def _report(self, **item: Any) -> None:
        if self._job is not None:
            self._job.update(
                done=self._done,
                failed=tuple(self._failed),
                work_left=self._left,
                work_made=self._made,
                seconds=self._seconds,
                **item,
            )


def complete(report: SweepReport, plan: SweepPlan) -> None:
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
