"""What each job of a sweep reports about itself below the results. Imports no JAX.

    with JobReport(results, SweepJob("study", plan.digest, "3/8", ...)) as report:
        report.update(item="vit_b_32-openai: zeroshot on imagenet_v2")

A job is a process, or several together, of which the first reports. Its report is one file of
RESULTS/.sweeps, written anew as runs begin and every `BEAT` seconds, whole or not at all and without locks.
On a shared disk or a bucket any machine may read it. A job that was killed cannot report its end: a reader
recognises it by the report's age, or on the same host by the missing process.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from clipjax.errors import ClipjaxError, Interrupted
from clipjax.results.store import AHEAD, ResultStore
from clipjax.storage.reading import read_json
from clipjax.storage.records import read
from clipjax.storage.writing import write_bytes

FOLDER = ".sweeps"
BEAT = 20.0  # seconds between reports during a run
SILENCE = AHEAD  # seconds without a report after which a job counts as killed; clocks may differ by as much
OFTEN = 1.0  # seconds: short runs are not each reported
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepJob:
    """A report. Times are seconds since the epoch by the job's clock; work is floating-point operations.

    Attributes:
        suite: the name of its file without the ending.
        plan: the digest of the plan, which its parts share.
        part: "3/8"; of a whole sweep "1/1".
        pids: names the processes that `pid` is one of (`_own_pids`).
        processes: how many run the job together.
        ended: "finished", "interrupted" or "stopped by an error"; None before.
        plan_runs: the runs of all parts.
        plan_work: the work of all parts.
        runs: the part's.
        done: runs that have results, from before or made now.
        failed: names of the records of failed runs (`results.runs.failed_runs`).
        work: the part's.
        work_left: of runs that are neither done nor failed.
        work_made: what this job itself did, in `seconds`.
        item: the run that it is at, since `item_time`.
        missing: at most one line: data sets that the suite names and the plan did not find.
    """

    suite: str
    plan: str
    part: str
    processes: int
    plan_runs: int
    plan_work: float
    runs: int
    work: float
    work_left: float
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    pids: str = field(default_factory=lambda: _own_pids())
    time: float = field(default_factory=time.time)
    ended: str | None = None
    done: int = 0
    failed: tuple[str, ...] = ()
    work_made: float = 0.0
    seconds: float = 0.0
    item: str | None = None
    item_time: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """At the job's own speed; None before it has one."""
        return self.work_left * self.seconds / self.work_made if self.work_made else None

    def state(self, now: float) -> str:
        """ "running", how it ended, or "killed"."""
        if self.ended is not None:
            return self.ended
        gone = (self.host, self.pids) == (socket.gethostname(), _own_pids()) and not _exists(self.pid)
        return "killed" if gone or now - self.time > SILENCE else "running"


def read_jobs(results: str | os.PathLike[str], suite: str) -> dict[Path, SweepJob]:
    """The reports of a suite's jobs, the oldest first. Raises DataError for a damaged one; names the file."""
    folder = ResultStore(results).root / FOLDER
    files = sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []
    jobs = {file: read(SweepJob, read_json(file), file) for file in files}
    return dict(sorted(((file, job) for file, job in jobs.items() if job.suite == suite), key=_age))


def _age(entry: tuple[Path, SweepJob]) -> float:
    return entry[1].time


class JobReport:
    """Writes a job's reports until the context ends. A failure to write is logged once and stops no run."""

    def __init__(self, results: str | os.PathLike[str], job: SweepJob) -> None:
        folder = ResultStore(results).root / FOLDER
        self._results, self._job = results, job
        self._file = folder / f"{job.host}-{job.pid}-{secrets.token_hex(4)}.json"
        self._lock, self._end = threading.Lock(), threading.Event()
        self._written, self._fails = 0.0, False
        self._thread = threading.Thread(target=self._beat, name="clipjax-report", daemon=True)

    def __enter__(self) -> JobReport:
        self._remove_old()
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        how = "finished" if error is None else "interrupted" if interrupted else "stopped by an error"
        self._end.set()
        with self._lock:
            self._job = replace(self._job, ended=how, item=None)
        self._write()

    def update(self, **changes: Any) -> None:
        """Set fields of the report."""
        with self._lock:
            self._job = replace(self._job, **changes)
        if time.monotonic() - self._written >= OFTEN:
            self._write()

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            self._write()

    def _write(self) -> None:
        with self._lock:  # so that no beat comes after the last report
            self._written = time.monotonic()
            self._job = replace(self._job, time=time.time())
            try:
                write_bytes(self._file, json.dumps(asdict(self._job), indent=1).encode())
            except (ClipjaxError, OSError) as error:
                if not self._fails:
                    _log.warning("--status will not show this sweep: %s", error)
                self._fails = True

    def _remove_old(self) -> None:
        """Remove reports of ended jobs that this one follows: of its part, of another plan or cut."""
        now, own = time.time(), self._job
        try:
            for file, job in read_jobs(self._results, own.suite).items():
                other_part = job.part != own.part and (job.plan, _cut(job)) == (own.plan, _cut(own))
                if job.state(now) != "running" and not other_part:
                    file.unlink(missing_ok=True)
        except (ClipjaxError, OSError) as error:
            _log.warning("old reports of the sweep stay: %s", error)


def _cut(job: SweepJob) -> str:
    return job.part.partition("/")[2]


def newest(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """The last job of each part, of the plan (and its cut into parts) that reported last."""
    if not jobs:
        return []
    last = max(jobs, key=lambda job: job.time)
    same = [job for job in jobs if (job.plan, _cut(job)) == (last.plan, _cut(last))]
    return list({job.part: job for job in sorted(same, key=lambda job: job.time)}.values())


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _own_pids() -> str:
    """Identifies the system and the container within which a process id means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
