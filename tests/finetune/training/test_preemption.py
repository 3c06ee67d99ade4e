"""Stopping when asked to: one process, and several that must agree."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _long import mostly_long

from clipjax.errors import Interrupted
from clipjax.finetune.training.logs import read_metrics
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.trees import flatten
from tests.finetune._tiny import RECIPE, TinyLoss, same_bits, tiny_problem, tiny_setup, watched
from tests.finetune.training._processes import start, wait_for_batch


@pytest.fixture
def handlers() -> Iterator[list[int]]:
    """The signals that reach handlers which were there before."""
    seen: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _: seen.append(number)) for number in numbers]
    yield seen
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "train" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("number", "code"), mostly_long([(signal.SIGTERM, 75), (signal.SIGINT, 130)], keep=[signal.SIGTERM])
)
def test_a_signal_ends_the_step_and_the_run_goes_on(
    tmp_path: Path, handlers: list[int], number: signal.Signals, code: int
) -> None:
    setup = tiny_setup(tmp_path, devices=2)

    def on_batch(batch: int) -> None:
        if batch == 6:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=r"after step 6 of 12: it is kept in .*; run the same") as caught:
        train(watched(setup, on_batch), setup)
    assert caught.value.exit_code == code
    assert saved(tmp_path) == [4, 6]
    assert handlers == []
    signal.raise_signal(signal.SIGTERM)
    assert handlers == [signal.SIGTERM], "the handlers of before are back"
    alone = tiny_setup(devices=2)
    ours = train(tiny_problem(setup), setup).params
    assert same_bits(ours, train(tiny_problem(alone), alone).params)


def test_a_signal_in_the_last_step_is_not_lost(tmp_path: Path, handlers: list[int]) -> None:
    setup = tiny_setup(tmp_path, devices=2)
    train(watched(setup, lambda batch: signal.raise_signal(signal.SIGTERM) if batch == 12 else None), setup)
    assert saved(tmp_path)[-1] == 12
    assert handlers == [signal.SIGTERM]


def test_a_second_ctrl_c_stops_at_once(handlers: list[int]) -> None:
    setup = tiny_setup(devices=2)

    def on_batch(_: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(watched(setup, on_batch), setup)


def test_training_in_another_thread_catches_nothing() -> None:
    results: list[Any] = []
    setup = tiny_setup(devices=2)
    thread = threading.Thread(target=lambda: results.append(train(tiny_problem(setup), setup)))
    thread.start()
    thread.join()
    assert len(results) == 1


@contextlib.contextmanager
def pair(folder: Path, *arguments: Any) -> Iterator[list[Any]]:
    """Two processes of one run, two devices each; neither outlives this."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, *arguments, "--process", i, 2, port, devices=2) for i in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ends(processes: list[Any]) -> tuple[list[int], list[str]]:
    """Exit codes, and what was written to stderr."""
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.long("finetune/test_bucket_run.py::test_the_first_of_two_processes_uploads_what_both_have")
def test_two_processes_stop_behind_one_step_and_equal_one_process(tmp_path: Path) -> None:
    """FSDP; SIGTERM to the second process; then the same command again; then one process of as many devices.

    The signal comes in the second of two runs of the same length: the number of the step at which all could
    stop has been that of a step of the first run already.
    """
    steps = 100
    arguments = ("--steps", steps, "--every", 150, "--keep", 1.0, "--twice")
    with pair(tmp_path, *arguments, "--wait", 0.05) as processes:
        wait_for_batch(processes[1], 5)
        asked = time.monotonic()
        processes[1].send_signal(signal.SIGTERM)
        codes, errors = ends(processes)
        took = time.monotonic() - asked
    assert codes == [75, 75], errors
    assert took < 20
    assert saved(tmp_path / "before") == [steps]
    (step,) = saved(tmp_path)
    assert step < steps
    for error in errors:
        assert f"after step {step} of {steps}" in error

    with pair(tmp_path, *arguments) as processes:
        codes, errors = ends(processes)
    assert codes == [0, 0], errors
    losses = {}
    setup = tiny_setup(tmp_path / "one", dataclasses.replace(RECIPE, steps=steps), devices=4, every=steps)
    problem = tiny_problem(setup, loss=TinyLoss(keep=1.0))
    params = flatten(train(problem, setup).params)
    with np.load(tmp_path / "weights.npz") as weights:
        for path, value in params.items():
            np.testing.assert_allclose(weights[path], value, rtol=0, atol=1e-4, err_msg=path)
    for folder in (tmp_path, tmp_path / "one"):
        rows = read_metrics(folder / "train" / "metrics.csv")
        assert [row["step"] for row in rows] == [*range(1, steps + 1)]
        losses[folder] = [row["loss"] for row in rows]
    two, one = losses.values()
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    assert one[-1] < 0.5 * one[0]
    assert jax.process_count() == 1


@pytest.mark.long("signals/test_signals.py::test_a_jitted_loop_is_ended")
def test_two_processes_in_a_step_that_does_not_end_are_ended(tmp_path: Path) -> None:
    """SIGTERM to one of them; no step ends at which both could stop. The last resume point stays."""
    arguments = ("--steps", 100, "--every", 4, "--stuck", 10, "--grace", 1)
    with pair(tmp_path, *arguments) as processes:
        wait_for_batch(processes[1], 10)
        asked = time.monotonic()
        processes[1].send_signal(signal.SIGTERM)
        codes, errors = ends(processes)
        took = time.monotonic() - asked
    assert codes == [75, 75], errors
    assert took < 60  # a busy machine; the step itself would take an hour
    assert saved(tmp_path) == [4, 8]
    for error in errors:
        assert "run the same command again; what was being computed is dropped" in error
