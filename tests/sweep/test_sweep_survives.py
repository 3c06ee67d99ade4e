"""Killed, interrupted and restarted on other devices: the same rows, and hardly anything computed twice."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from _sweep_world import BATCH, EMBEDDED, RUNS, log_of, rows_of, said, start_all
from typer.testing import Result

from tests._forks import Running

SECONDS = 300  # that the slowest machine may take
NOTICE = 20  # seconds between SIGTERM and the end
SHARD = BATCH  # rows of a shard of `many`, and of `few` and `odd`
STOPPED = "sweep/test_sweep_survives.py::test_any_process_that_is_asked_to_stop_stops_all"
# Processes and devices of each: as a job is given them, one start after the other.
MACHINES = ((1, 1), (2, 2), (1, 4))


def wait_for(processes: Sequence[Running], out: Path, lines: int) -> bool:
    """Until so many lines are in the log; False where the processes have ended before."""
    until = time.monotonic() + SECONDS
    while len(log_of(out)) < lines:
        if all(process.poll() is not None for process in processes):
            return False
        assert time.monotonic() < until, said(out)
        time.sleep(0.002)
    return True


@pytest.mark.long("storage/test_store.py::test_killed_writer_leaves_no_shard_and_its_file_is_swept")
def test_killed_at_random_points(suite: Path, done: tuple[Path, Result, int], tmp_path: Path) -> None:
    kill_and_finish(suite, tmp_path, done[0], kills=3)


@pytest.mark.slow
def test_killed_at_twenty_random_points(suite: Path, done: tuple[Path, Result, int], tmp_path: Path) -> None:
    kill_and_finish(suite, tmp_path, done[0], kills=20)


def kill_and_finish(suite: Path, out: Path, done: Path, kills: int) -> None:
    """Kill a sweep a random number of lines of its log after it has started, then again; let the last end."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng, left, lost = random.Random(seed), EMBEDDED + RUNS, 0
    for number in range(kills):
        processes, devices = MACHINES[number % len(MACHINES)]
        running, here = start_all(suite, out, processes=processes, devices=devices), len(log_of(out))
        wait_for(running, out, here + rng.randint(1, max(1, left // (kills - number))))
        time.sleep(rng.random() * 0.05)
        for process in running:
            process.kill()
        for process in running:
            process.wait(SECONDS)
        left -= len(log_of(out)) - here
        lost += processes * (max(SHARD, devices * BATCH) + devices * BATCH)
    finish(suite, out)
    assert rows_of(out) == rows_of(done)
    images = Counter(line for line in log_of(out) if line.startswith("image"))
    assert len(images) == EMBEDDED
    # A shard that was not stored yet, or a step where that is more, and the step behind it.
    assert images.total() <= EMBEDDED + lost


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([(2, 1)], id="the second of two"),
        pytest.param([(1, 0), (2, 1), (2, 0)], id="three times", marks=pytest.mark.long(STOPPED)),
    ],
)
def test_any_process_that_is_asked_to_stop_stops_all(
    stops: Sequence[tuple[int, int]], suite: Path, done: tuple[Path, Result, int], tmp_path: Path
) -> None:
    """The second of two; also one alone, the second and the first of two in one sweep. Nothing is lost."""
    for processes, asked in stops:
        running = start_all(suite, tmp_path, processes=processes, devices=2)
        assert wait_for(running, tmp_path, len(log_of(tmp_path)) + 30), said(tmp_path)
        running[asked].send_signal(signal.SIGTERM)
        until = time.monotonic() + NOTICE
        ended = [process.wait(max(0.1, until - time.monotonic())) for process in running]
        assert ended == [75] * processes, said(tmp_path)
    assert "run the same command again" in said(tmp_path)
    finish(suite, tmp_path)
    assert rows_of(tmp_path) == rows_of(done[0])


def finish(suite: Path, out: Path) -> None:
    """The same command again does what is left: exit code 0."""
    [last] = start_all(suite, out, processes=1, devices=2)
    assert last.wait(SECONDS) == 0, said(out)
