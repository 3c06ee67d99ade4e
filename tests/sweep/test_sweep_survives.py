"""Killed, interrupted and restarted on other devices: the same rows, and hardly anything computed twice."""

from __future__ import annotations

import mmap
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import jaxlib
import pytest
from _sweep_world import BATCH, EMBEDDED, RUNS, log_of, rows_of, said, start_all
from typer.testing import Result

from clipjax.devices import signals
from clipjax.devices.processes import _follow
from tests._forks import Running

SECONDS = 300  # that the slowest machine may take
NOTICE = 20  # seconds between SIGTERM and the end
SHARD = BATCH  # rows of a shard of `many`, and of `few` and `odd`
NOTICED = "sweep/test_sweep_survives.py::test_a_notice_in_the_job_is_a_sigterm_to_each_process"
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


def test_a_notice_in_the_job_is_a_sigterm_to_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX leaves one when a process gets a SIGTERM; the first process, which the others need, ends last."""
    asked: list[tuple[int, float]] = []
    monkeypatch.setattr(signals, "ask", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr("clipjax.devices.processes._TICK", 0.01)
    for number, last in ((1, 0.0), (0, 2.0)):
        keys: list[str] = []

        def key_value_try_get(key: str, keys: list[str] = keys) -> None:
            keys.append(key)
            if len(keys) < 3:
                raise jax.errors.JaxRuntimeError("NOT_FOUND")

        client = SimpleNamespace(key_value_try_get=key_value_try_get)
        state = SimpleNamespace(client=client, process_id=number)
        monkeypatch.setattr("jax._src.distributed.global_state", state)
        _follow(threading.Event())
        assert asked.pop() == (signal.SIGTERM, signals.GRACE + last)
    assert any(has(library, keys[0]) for library in Path(jaxlib.__file__).parent.glob("*.so"))


def has(file: Path, word: str) -> bool:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word.encode()) >= 0


@pytest.mark.long(NOTICED)
@pytest.mark.parametrize(
    "stops", [[(2, 1)], [(1, 0), (2, 1), (2, 0)]], ids=["the second of two", "three times"]
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
