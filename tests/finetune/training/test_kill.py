"""kill -9 at any moment: what is left goes on to the same weights."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.finetune.training.logs import read_metrics
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.trees import Params
from clipjax.models.cut import FSDP
from tests.finetune._tiny import RECIPE, same_bits, tiny_problem, tiny_setup
from tests.finetune.training._processes import start, wait_for_batch

EVERY = 4


def finish(folder: Path | None, steps: int, devices: int, **options: object) -> Params:
    setup = tiny_setup(
        folder,
        dataclasses.replace(RECIPE, steps=steps),
        devices=devices,
        every=EVERY,
        **options,  # type: ignore[arg-type]
    )
    return train(tiny_problem(setup), setup).params


def killed(folder: Path, steps: int, at: int, devices: int, rng: random.Random) -> None:
    """A run that dies a moment after it takes batch `at`: in a step, or in the middle of saving."""
    process = start(folder, "--steps", steps, "--every", EVERY, devices=devices)
    wait_for_batch(process, at)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def same_weights(ours: Params, wanted: Params) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.long("finetune/training/test_loop.py::test_a_run_goes_on_on_other_devices")
def test_a_run_killed_three_times_gives_the_weights_of_one_never_stopped(tmp_path: Path) -> None:
    steps, rng = 60, random.Random(0)
    whole = finish(None, steps, 2)
    folder = tmp_path / "run"
    for at in sorted(rng.sample(range(2, 50), 3)):
        killed(folder, steps, at, 2, rng)
    on_others = Path(shutil.copytree(folder, tmp_path / "copy"))

    assert same_bits(finish(folder, steps, 2), whole)
    assert [row["step"] for row in read_metrics(folder / "train" / "metrics.csv")] == [*range(1, steps + 1)]
    same_weights(finish(on_others, steps, 8, rules=FSDP), whole)
    assert not [*tmp_path.rglob("*tmp*")], "what was being written is gone"


@pytest.mark.slow
def test_a_run_killed_twenty_times_on_changing_devices(tmp_path: Path) -> None:
    steps, rng = 400, random.Random()
    whole = finish(None, steps, 2)
    for number, at in enumerate(sorted(rng.sample(range(2, 380), 20))):
        killed(tmp_path, steps, at, (2, 1, 8, 4)[number % 4], rng)
    same_weights(finish(tmp_path, steps, 2), whole)
