"""How far a sweep is, by the reports of its jobs and the records of its failed runs. Imports no JAX.

Nothing is planned, opened or hashed, so it takes neither the data nor the models: the folder of results is
enough, on any machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clipjax.errors import DataError, counted
from clipjax.results.runs.failed_runs import FailedRun, FailedRuns
from clipjax.sweep.job_reports import SweepJob, duration, newest, read_jobs

RUNNING = "running"
HEADER = ["part", "state", "host", "pid", "runs", "done", "failed", "left", "run"]


@dataclass(frozen=True)
class SweepStatus:
    """The status of a suite's jobs.

    Attributes:
        rows: one per job, as `HEADER`.
        failed: runs that failed and have not succeeded since.
        lines: the sums, and what they rest on.
        missing: at most one line: the data sets that the suite names and that are not there.
    """

    rows: list[list[str]]
    failed: list[FailedRun]
    lines: list[str]
    missing: list[str]


def status(suite: str, results: str | os.PathLike[str]) -> SweepStatus:
    """Read the reports of the newest plan, and of every job that still runs.

    Args:
        suite: its name.

    Raises:
        DataError: no job of the suite has reported to `results`, or a report or record is damaged.
    """
    now, jobs = time.time(), list(read_jobs(results, suite).values())
    if not jobs:
        raise DataError(
            f"no sweep of {suite} has reported to {results}: give the folder that it writes to (--results), "
            "or list the runs without results with --collect"
        )
    latest = newest(jobs)
    shown = [job for job in jobs if job in latest or job.state(now) == RUNNING]
    records = FailedRuns(results).all()
    names = dict.fromkeys(name for job in shown for name in job.failed)
    failed = [records[name] for name in names if name in records]
    missing = [*dict.fromkeys(line for job in latest for line in job.missing)]
    return SweepStatus([_row(job, now) for job in shown], failed, _lines(latest, now), missing)


def _row(job: SweepJob, now: float) -> list[str]:
    state, left = job.state(now), job.seconds_left
    time_left = "" if job.ended == "finished" else "?" if left is None else duration(left)
    ago = "" if state == RUNNING else f" {duration(now - job.time)} ago"
    run = "" if job.item is None else f"{job.item} ({duration(max(0.0, now - job.item_time))})"
    counts = [job.runs, job.done, len(job.failed)]
    host = job.host if job.processes == 1 else f"{job.host} and others, {job.processes} processes"
    return [job.part, f"{state}{ago}", host, str(job.pid), *map(str, counts), time_left, run]


def _lines(jobs: Sequence[SweepJob], now: float) -> list[str]:
    """Sums over the parts of one plan."""
    first, running = jobs[0], [job for job in jobs if job.state(now) == RUNNING]
    done, failed = sum(job.done for job in jobs), sum(len(job.failed) for job in jobs)
    left = first.plan_runs - done - failed
    lines = [
        f"{done} of {counted(first.plan_runs, 'run')} done, {failed} failed, {left} left; "
        f"{counted(len(running), 'job')} running"
    ]
    parts = int(first.part.partition("/")[2])
    unseen = sorted({*range(1, parts + 1)} - {int(job.part.partition("/")[0]) for job in jobs})
    if unseen:
        lines.append(f"parts that have not begun: {', '.join(f'{number}/{parts}' for number in unseen)}")
    return [*lines, *_time_left(jobs, running)]


def _time_left(jobs: Sequence[SweepJob], running: Sequence[SweepJob]) -> list[str]:
    """The time until the running jobs end, and the time of one job for the work of all others."""
    made, seconds = sum(job.work_made for job in jobs), sum(job.seconds for job in jobs)
    rest = jobs[0].plan_work - sum(job.work for job in jobs)  # of parts that have not begun
    rest += sum(job.work_left for job in jobs if job not in running)
    if not made:
        return ["time left: unknown, no run has been made yet"] if rest or running else []
    lines = []
    if running:
        longest = max(_seconds(job, made, seconds) for job in running)
        lines.append(f"time left: about {duration(longest)} until the running jobs end")
    if rest > 0:
        lines.append(
            f"not in a running job: about {duration(rest * seconds / made)} of work, on one such job"
        )
    return lines


def _seconds(job: SweepJob, made: float, seconds: float) -> float:
    """A job's time left, at the mean speed of all where it has none of its own."""
    return job.work_left * seconds / made if job.seconds_left is None else job.seconds_left
