"""The reports of a sweep's jobs: what they say of a running, ended or killed job, and how they are summed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from _sweep_world import RUNS, log_of, said, start, sweep

from clipjax.errors import DataError, Interrupted
from clipjax.results.store import ResultStore
from clipjax.sweep import job_reports
from clipjax.sweep.job_reports import SILENCE, JobReport, SweepJob, read_jobs
from clipjax.sweep.status import status

SECONDS = 120  # that the slowest machine may take


def job(part: str = "1/1", **fields: Any) -> SweepJob:
    amounts: dict[str, Any] = {"plan_runs": 60, "plan_work": 600.0, "runs": 20, "work": 200.0}
    return SweepJob("study", "digest", part, 1, **{**amounts, "work_left": 200.0, **fields})


def write(results: Path, *jobs: SweepJob) -> None:
    for number, each in enumerate(jobs):
        (results / ".sweeps").mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(each))
        (results / ".sweeps" / f"{number}-{each.host}.json").write_text(text)


def test_a_running_sweep_is_seen_by_another_process_and_a_killed_one_is_known(
    suite: Path, tmp_path: Path
) -> None:
    running = start(suite, tmp_path, devices=1)
    until = time.monotonic() + SECONDS
    while "run" not in log_of(tmp_path):
        assert running.poll() is None, said(tmp_path)
        assert time.monotonic() < until, said(tmp_path)
        time.sleep(0.01)
    shown = sweep(suite, tmp_path, "--status").output
    running.send_signal(signal.SIGKILL)
    running.wait(SECONDS)
    [row] = re.findall(r"^1/1 +running .*$", shown, re.MULTILINE)
    assert str(running.pid) in row
    assert "1 job running" in shown
    assert re.search(r"^time left: ", shown, re.MULTILINE)
    assert f"of {RUNS} runs done, 0 failed" in shown
    shown = sweep(suite, tmp_path, "--status").output
    assert re.search(r"^1/1 +killed \d+ s ago ", shown, re.MULTILINE)
    assert "0 jobs running" in shown
    assert len(ResultStore(tmp_path / "results").run_ids()) >= 1  # a report is not taken for a run


def test_a_job_of_another_host_runs_as_long_as_it_reports() -> None:
    now = time.time()
    assert job(host="elsewhere", pid=1, time=now).state(now + SILENCE - 1) == "running"
    assert job(host="elsewhere", pid=1, time=now).state(now + SILENCE + 1) == "killed"
    assert job(time=now).state(now) == "running"
    assert job(pid=2**22 + 1, time=now).state(now) == "killed"  # no Linux process has this id
    assert job(pid=2**22 + 1, pids="of another container", time=now).state(now) == "running"
    assert job(ended="finished", time=now).state(now + 10 * SILENCE) == "finished"


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (None, "finished"),
        (Interrupted("stop"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (DataError("full"), "stopped by an error"),
    ],
)
def test_how_a_job_ended(tmp_path: Path, error: BaseException | None, how: str) -> None:
    def run() -> None:
        with JobReport(tmp_path, job()) as report:
            report.update(item="b32: zeroshot on few")
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    [ended] = read_jobs(tmp_path, "study").values()
    assert (ended.ended, ended.item) == (how, None)


def test_a_long_run_goes_on_reporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_reports, "BEAT", 0.01)
    with JobReport(tmp_path, job()):
        [first] = read_jobs(tmp_path, "study").values()
        until = time.monotonic() + SECONDS
        while next(iter(read_jobs(tmp_path, "study").values())).time == first.time:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_reports_that_cannot_be_written_stop_no_sweep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".sweeps").touch()
    with caplog.at_level(logging.WARNING), JobReport(tmp_path, job()) as report:
        for number in range(3):
            report._written = 0.0
            report.update(done=number)
    assert caplog.text.count("--status will not show this sweep") == 1


def test_a_new_job_removes_the_reports_that_it_follows(tmp_path: Path) -> None:
    ended, now = {"ended": "finished"}, time.time()
    write(
        tmp_path,
        job("1/3", **ended),
        job("2/3", **ended),
        job("1/2", **ended),
        dataclasses.replace(job("3/3", **ended), plan="of another suite.toml"),
        dataclasses.replace(job("1/3", **ended), suite="other"),
        job("1/3", host="elsewhere", time=now - SILENCE - 1),
        job("1/3", host="elsewhere", time=now),
    )
    with JobReport(tmp_path, job("1/3")):
        left = [(each.part, each.host == "elsewhere") for each in read_jobs(tmp_path, "study").values()]
    assert sorted(left) == [("1/3", False), ("1/3", True), ("2/3", False)]
    assert len(read_jobs(tmp_path, "other")) == 1


def test_sums_over_the_parts_of_the_newest_plan(tmp_path: Path) -> None:
    """The second part has 100 operations left at 2 a second; the third, 200 of work, has not begun."""
    now = time.time()
    write(
        tmp_path,
        job("1/2", ended="finished", time=now - 9000, done=20),
        job("1/3", ended="finished", time=now - 500, done=19, failed=("a",), work_left=0.0),
        job("2/3", time=now, done=9, work_left=100.0, work_made=80.0, seconds=40.0, item="b32: ood on few"),
    )
    found = status("study", tmp_path)
    assert [row[0] for row in found.rows] == ["1/3", "2/3"]
    assert found.rows[1][4:8] == ["20", "9", "0", "50 s"]
    assert found.lines == [
        "28 of 60 runs done, 1 failed, 31 left; 1 job running",
        "parts that have not begun: 3/3",
        "time left: about 50 s until the running jobs end",
        "not in a running job: about 2 min of work, on one such job",
    ]
    assert found.failed == []  # its record is gone: it has succeeded since


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    write(tmp_path, job())
    [file] = (tmp_path / ".sweeps").iterdir()
    file.write_text('{"suite": "study"}')
    with pytest.raises(DataError, match=f"^{file}"):
        status("study", tmp_path)
    assert os.path.exists(file)
