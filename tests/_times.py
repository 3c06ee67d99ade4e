"""Processor seconds of each test, the order of files by them, and what grew.

A test's seconds are those of its process and of the processes that it started and waited for (forks of
tests/_forks.py included), with the fixtures made for it. The clock would count other programs of the machine.

`tests/times.csv` has the seconds of each file in `make test` on one machine (`--record-times` writes it
anew). Files run in its order, the longest first, so that no worker waits at the end for another's long file.
It states proportions, not limits: another machine is faster or slower as a whole.
"""

from __future__ import annotations

import csv
import resource
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

# As the tests import it: another name would be another module, with a server of its own.
from tests import _forks

TESTS = Path(__file__).resolve().parent
RECORD = TESTS / "times.csv"
LIMIT_S = 12 * 60  # of the processor, in one worker of `make test`
SHOWN = 10
RECORDED_S = 0.5  # a file below is not recorded
GROWN_S, GROWN = 5.0, 1.5  # a file grew by this many seconds and by this factor
_PROPERTY = "processor_s"


def processor_s() -> float:
    """Seconds of the processor that this process and its ended children took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + _forks.processor_s()


def recorded() -> dict[str, float]:
    """Seconds by file below tests/, as recorded."""
    with RECORD.open(encoding="utf-8", newline="") as file:
        return {row["file"]: float(row["seconds"]) for row in csv.DictReader(file)}


def in_order(items: list[pytest.Item]) -> None:
    """Sort tests: files by their recorded seconds, the longest first; those without a record last."""
    seconds = recorded()
    items.sort(key=lambda item: -seconds.get(_file(item.nodeid), 0.0))


def grown(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Files that took more than their record, and both figures in this machine's seconds.

    The record is scaled by the median ratio of the files in both, which is how much slower this machine is.

        now {"a": 2, "b": 2, "c": 30}, before {"a": 1, "b": 1, "c": 5}: scale 2, so c took 30 after 10
    """
    both = [file for file in now if before.get(file, 0) >= RECORDED_S]
    scale = statistics.median(now[file] / before[file] for file in both) if both else 1.0
    pairs = {file: (before.get(file, 0.0) * scale, seconds) for file, seconds in now.items()}
    return {
        file: (was, seconds)
        for file, (was, seconds) in sorted(pairs.items(), key=lambda item: item[1][0] - item[1][1])
        if seconds > was + GROWN_S and seconds > GROWN * was
    }


class Times:
    """A plug-in of pytest that measures tests and prints the slowest files."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: dict[str, float] = defaultdict(float)
        self.workers: dict[str, float] = defaultdict(float)
        self.measured = processor_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """A test's last report carries the seconds since that of the test before, to xdist's main process."""
        report: pytest.TestReport = yield  # type: ignore[misc]
        if report.when == "teardown":
            before, self.measured = self.measured, processor_s()
            report.user_properties.append((_PROPERTY, self.measured - before))
        return report  # type: ignore[return-value]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = sum(float(str(value)) for name, value in report.user_properties if name == _PROPERTY)
        self.tests[report.nodeid] += seconds
        # xdist's main process adds the number of the worker to each report.
        self.workers[getattr(report, "worker_id", "")] += seconds

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        files = by_file(self.tests)
        if (path := self.config.getoption("times")) is not None:
            _write(Path(path), "test", self.tests)
        if self.config.getoption("record_times"):
            _write(RECORD, "file", {file: s for file, s in files.items() if s >= RECORDED_S})
        if len(files) < SHOWN:
            return
        terminalreporter.section("processor seconds of the slowest files")
        for file, seconds in list(files.items())[:SHOWN]:
            terminalreporter.line(f"{seconds:7.1f}  {file}")
        for line in too_slow(max(self.workers.values()), files, recorded()):
            terminalreporter.line(line)


def by_file(tests: Mapping[str, float]) -> dict[str, float]:
    """Seconds by file below tests/, the longest first."""
    files: dict[str, float] = defaultdict(float)
    for test, seconds in tests.items():
        files[_file(test)] += seconds
    return dict(sorted(files.items(), key=lambda item: -item[1]))


def too_slow(worker_s: float, files: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """What to print of a run in which a worker took more than LIMIT_S; never a failure.

    Args:
        worker_s: processor seconds of the worker that took longest.
        files: processor seconds by file.
        before: those on record.
    """
    if worker_s <= LIMIT_S:
        return []
    lines = [f"a worker took {worker_s / 60:.1f} minutes of the processor: more than {LIMIT_S / 60:.0f}"]
    for file, (was, now) in grown(files, before).items():
        lines.append(f"{file} grew from {was:.1f} to {now:.1f} s (tests/times.csv, at this machine's speed)")
    return (
        lines if len(lines) > 1 else [*lines, "no file grew against tests/times.csv: this machine is slower"]
    )


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def _write(path: Path, what: str, seconds: Mapping[str, float]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([what, "seconds"])
        writer.writerows(
            [name, f"{s:.1f}"] for name, s in sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
        )
