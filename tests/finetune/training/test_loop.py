"""The loop and what it leaves: logs, checkpoints of this run and no other, the chosen epoch, a clear end."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from _long import mostly_long
from jax import Array
from safetensors.numpy import load_file

from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.splits import ValidationSplit
from clipjax.finetune.method import Problem, Setup
from clipjax.finetune.training import logs as logs_module
from clipjax.finetune.training import loop
from clipjax.finetune.training import resume as checkpoints
from clipjax.finetune.training.logs import Logs, read_metrics
from clipjax.finetune.training.optimizer import Optimizer
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.trees import Params
from clipjax.models.cut import FSDP
from clipjax.storage.formats.safetensors import write_safetensors
from tests._events import scalars
from tests._trackers import Wandb
from tests.finetune._tiny import (
    IMAGES,
    RECIPE,
    TinyLoss,
    Watched,
    features,
    same_bits,
    tiny_problem,
    tiny_setup,
    watched,
)


class Stopped(Exception):
    """A run that dies."""


def dying(at: int) -> Callable[[int], None]:
    """For `watched`: the run dies before the step of this number."""

    def on_batch(number: int) -> None:
        if number == at:
            raise Stopped

    return on_batch


def solve(folder: Path | None, recipe: Any = RECIPE, **options: Any) -> Params:
    setup = tiny_setup(folder, recipe, devices=2, **options)
    return train(tiny_problem(setup), setup).params


@pytest.fixture(scope="module")
def whole() -> Params:
    """The weights of a run that was never stopped."""
    return solve(None)


def test_every_step_is_logged_once(tmp_path: Path, whole: Params, capsys: pytest.CaptureFixture[str]) -> None:
    setup = tiny_setup(tmp_path, devices=2)
    with pytest.raises(Stopped):
        train(watched(setup, dying(12)), setup)
    table = tmp_path / "train" / "metrics.csv"
    assert len(read_metrics(table)) > 8, "the steps behind the last checkpoint are there to be cut"
    with table.open("a") as file:
        file.write("11,2.2,0.")  # cut short
    assert same_bits(solve(tmp_path, progress=True), whole)

    rows = read_metrics(table)
    assert [row["step"] for row in rows] == [*range(1, 13)]
    assert list(rows[0]) == [
        "step",
        "epoch",
        "loss",
        "accuracy",
        "grad_norm",
        "learning_rate",
        "images_per_s",
    ]
    rates = [float(RECIPE.rate(IMAGES)(step)) for step in range(12)]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-6)
    assert rows[4]["epoch"] == 1.0
    *before, line = capsys.readouterr().err.splitlines()
    assert len(before) < 10
    assert re.search(
        r"^train: 12/12 \[\d+:\d+<\d+:\d+.*loss [\d.]+, accuracy [\d.]+, [\d.e+]+ images/s", line
    ), line
    events = sorted((tmp_path / "train").glob("events.*"), key=lambda path: int(path.suffix[1:]))
    points = scalars(events[-1])
    assert points["loss", 12] == pytest.approx(rows[-1]["loss"])
    assert {name for name, _ in points} == set(rows[0]) - {"step"}


def test_a_run_goes_on_on_other_devices(tmp_path: Path) -> None:
    """Two that hold all the state, then eight that hold a part each."""
    loss, weights = TinyLoss(keep=1.0), []
    setup = tiny_setup(tmp_path, devices=2)
    with pytest.raises(Stopped):
        train(watched(setup, dying(7), loss=loss), setup)
    taken: list[int] = []
    for setup in (tiny_setup(devices=2), tiny_setup(tmp_path, devices=8, rules=FSDP)):
        params = train(watched(setup, taken.append, loss=loss), setup).params
        weights.append(jax.tree.leaves(params))
    assert taken[-8:] == [*range(5, 13)]
    for alone, found in zip(*weights, strict=True):
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


def test_training_is_shown_by_a_tracker_too(
    tmp_path: Path, whole: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ten steps and the last; a resumed run is the same run."""
    monkeypatch.setitem(sys.modules, "wandb", package := Wandb())
    monkeypatch.setattr(logs_module, "_POINTS_EVERY", 2)
    setup = tiny_setup(tmp_path, devices=2)
    setup = dataclasses.replace(setup, settings=dataclasses.replace(setup.settings, track=("wandb",)))
    with pytest.raises(Stopped):
        train(watched(setup, dying(9)), setup)
    assert same_bits(train(tiny_problem(setup), setup).params, whole)
    [shown] = package.runs.values()
    rows = read_metrics(tmp_path / "train" / "metrics.csv")
    losses = {step: value for (name, step), value in shown.points.items() if name == "loss"}
    assert losses == pytest.approx({row["step"]: row["loss"] for row in rows if row["step"] % 2 == 0})
    assert shown.config["steps"] == "12"
    assert shown.finished


def test_what_is_not_finite_is_no_point_of_tensorboards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = Logs(10, batch_size=4, folder=tmp_path, progress=False)
    logs.start(9)
    logs.add(10, {"loss": float("nan"), "grad_norm": float("inf"), "accuracy": 0.5})
    logs.close()
    [events] = tmp_path.glob("events.*")
    assert {name for name, _ in scalars(events)} == {"accuracy", "images_per_s"}
    assert not caplog.records
    [row] = read_metrics(tmp_path / "metrics.csv")
    assert np.isnan(row["loss"])
    assert row["grad_norm"] == np.inf


def with_features(setup: Setup, values: np.ndarray) -> Problem:
    from clipjax.finetune.data.batches import feature_batches

    return tiny_problem(setup, batches=lambda: feature_batches(setup, values))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, whole: Params) -> None:
    setup = tiny_setup(tmp_path, devices=2)
    batches = tiny_problem(setup).batches()
    rows = [next(batches)["row"] for _ in range(5)][-1]
    values = features()
    values[rows[6]] = np.nan
    names = ", ".join(f"train{row:02}.png" for row in rows[:3])
    message = (
        f"the loss is not finite at step 5, whose batch is {names} and 5 more; "
        "the checkpoint of step 4 is kept"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        train(with_features(setup, values), setup)
    assert [path.name for path in (tmp_path / "train" / "checkpoints").iterdir()] == ["4"]
    assert np.isnan(read_metrics(tmp_path / "train" / "metrics.csv")[-1]["loss"])
    assert same_bits(solve(tmp_path), whole), "the image mended, it goes on"


@pytest.mark.parametrize("on_host", [True, False])
def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_host: bool
) -> None:
    """Loss and gradient of the first step are finite; its update is not."""
    monkeypatch.setattr(loop, "_on_host", lambda leaves: on_host)
    recipe = dataclasses.replace(RECIPE, optimizer=Optimizer("sgd", learning_rate=3e38, weight_decay=100.0))
    with pytest.raises(DataError, match=r"the weights are not finite at step 1.*no step was saved"):
        solve(tmp_path, recipe, every=1)
    assert not [*(tmp_path / "train" / "checkpoints").iterdir()]


def test_another_run_does_not_go_on_from_these_checkpoints(tmp_path: Path, whole: Params) -> None:
    setup = tiny_setup(tmp_path, devices=2)
    with pytest.raises(Stopped):
        train(watched(setup, dying(6)), setup)
    other = dataclasses.replace(
        RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, learning_rate=1e-3), name="renamed"
    )
    message = r"checkpoints of another run: recipe\.optimizer\.learning_rate was 0\.01 and is 0\.001; go on"
    with pytest.raises(DataError, match=message):
        solve(tmp_path, other)
    with pytest.raises(DataError, match="another run: seed was 1 and is 2;"):
        solve(tmp_path, seed=2)
    changed = tiny_setup(tmp_path, devices=2)
    changed.train.labels[0] ^= 1
    with pytest.raises(DataError, match=r"train\.digest was \w+ and is \w+;"):
        train(tiny_problem(changed), changed)
    renamed = dataclasses.replace(RECIPE, name="renamed", title="Another", seeds=(7,))
    assert same_bits(solve(tmp_path, renamed), whole), "nothing was lost, and names decide nothing"


def test_a_finished_run_is_read_back(tmp_path: Path, whole: Params) -> None:
    assert same_bits(solve(tmp_path), whole)
    setup = tiny_setup(tmp_path, devices=2)
    assert same_bits(train(watched(setup, dying(13)), setup).params, whole)


def test_a_disk_that_fills_up_is_one_sentence_and_loses_nothing(
    tmp_path: Path, whole: Params, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(number: int) -> None:
        if number == 6:  # files may hold 600 bytes from now on; writing more is an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))

    setup = tiny_setup(tmp_path, devices=2)
    try:
        with pytest.raises(DataError, match=r"step 8 cannot be .*/checkpoints: File too large; make room"):
            train(watched(setup, fill), setup)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "train" / "checkpoints").iterdir()] == ["4"], "nothing else"
    assert not caplog.records
    assert same_bits(solve(tmp_path), whole)


def test_what_a_failed_save_has_not_begun_is_not_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning here would be an error, as the coroutine goes."""
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)  # comes back

    async def write() -> None:
        raise AssertionError("is never awaited")

    def save() -> None:
        begun = [write() for _ in range(3)]
        raise OSError(errno.ENOSPC, f"{len(begun)} files")

    with pytest.raises(OSError, match="3 files"), checkpoints.quiet_orbax():
        save()


@pytest.mark.parametrize("interruption", [None, KeyboardInterrupt])
def test_what_a_save_hides_is_shown_after_it(interruption: type[BaseException] | None) -> None:
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    with contextlib.suppress(KeyboardInterrupt), checkpoints.quiet_orbax():
        assert logger.level == logging.CRITICAL
        if interruption is not None:
            raise interruption
    assert (logger.level, sys.unraisablehook) == (level, hook)


def test_a_full_disk_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"step 4 cannot .*: it takes 0.00\d+ MB and 0.001 MB are free; make"):
        solve(tmp_path)


def test_logs_on_a_full_disk_do_not_hide_what_ended_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logs = Logs(1, batch_size=4, folder=tmp_path, progress=False)
    logs.start(0)
    logs.add(1, {"loss": 1.0})
    assert logs._tracked is not None
    events: Any = logs._tracked._runs["tensorboard"]
    file = events._writer.file_writer
    writer, events._writer.close = file.event_writer, full
    logs.close()
    assert [each.getMessage() for each in caplog.records] == [
        "tensorboard has failed and is left out from now on: OSError: [Errno 28] No space left on device"
    ]
    assert file.event_writer is not writer, "which would try again as the interpreter ends"
    file.event_writer.close()
    writer.close()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file in its place")
    with pytest.raises(DataError, match="checkpoints: cannot be written"):
        solve(tmp_path)


def test_data_that_end_are_named() -> None:
    setup = tiny_setup(devices=2)
    problem = tiny_problem(setup)

    class Short(Watched):
        def __next__(self) -> dict[str, Any]:
            if self._count == 3:
                raise StopIteration
            return super().__next__()

    short = dataclasses.replace(problem, batches=lambda: Short(problem.batches(), lambda _: None))
    with pytest.raises(DataError, match="the training data ended"):
        train(short, setup)


EPOCHS = dataclasses.replace(RECIPE, steps=None, epochs=3, select=("epoch",))


def likes(epoch: int, seen: list[Params]) -> Callable[[Params, ValidationSplit], float]:
    """An accuracy that is best at this epoch."""

    def accuracy(params: Params, split: ValidationSplit) -> float:
        assert isinstance(split, ValidationSplit)
        assert params["frozen"]["kernel"].shape
        seen.append(params)
        return 0.9 if len(seen) == epoch else 0.1 * len(seen)

    return accuracy


def test_damaged_lines_of_a_log_do_not_end_a_run(tmp_path: Path) -> None:
    """Those of a machine that crashed: other bytes, and a block of zeros longer than csv's limit."""
    table = tmp_path / "metrics.csv"
    table.write_bytes(b"step,loss\n1,0.5\n2,\xff.5\n3,0.25\n" + bytes(200_000))
    assert read_metrics(table) == [{"step": 1, "loss": 0.5}, {"step": 3, "loss": 0.25}]


@pytest.mark.parametrize("on_disk", mostly_long([True, False], keep=[True]))
def test_the_best_epoch_is_chosen(tmp_path: Path, on_disk: bool) -> None:
    """Epochs of 5 steps; the run is stopped in the second one where it can go on."""
    setup = tiny_setup(tmp_path if on_disk else None, EPOCHS, devices=2, every=3)
    seen: list[Params] = []
    if on_disk:
        with pytest.raises(Stopped):
            train(watched(setup, dying(8), accuracy=likes(2, seen)), setup)
    params, chosen = train(tiny_problem(setup, accuracy=likes(2, seen)), setup)
    assert len(seen) == 3
    assert same_bits(params, seen[1])
    assert not same_bits(params, seen[2])
    assert chosen == {
        "epoch": 2,
        "epoch_accuracy": 0.9,
        "epoch_accuracies": [0.1, 0.9, pytest.approx(0.3)],
    }
    last = dataclasses.replace(EPOCHS, select=())
    alone = tiny_setup(None, last, devices=2)
    assert same_bits(train(tiny_problem(alone), alone).params, seen[2])


def test_a_choice_needs_a_validation_split_and_an_accuracy(tmp_path: Path) -> None:
    setup = tiny_setup(None, EPOCHS, devices=2)
    with pytest.raises(UsageError, match="the epoch cannot be chosen without a validation split"):
        train(tiny_problem(setup, accuracy=likes(1, [])), dataclasses.replace(setup, validation=None))
    with pytest.raises(UsageError, match="tiny cannot choose an epoch"):
        train(tiny_problem(setup), setup)


def test_a_lost_epoch_is_named(tmp_path: Path) -> None:
    setup = tiny_setup(tmp_path, EPOCHS, devices=2)
    problem = tiny_problem(setup, accuracy=likes(2, []))
    train(problem, setup)
    (tmp_path / "train" / "epochs" / "2.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.safetensors cannot be read .*the weights of epoch 2 are lost"):
        train(problem, setup)


def test_a_changed_epoch_is_not_chosen(tmp_path: Path) -> None:
    """One flipped bit in a number leaves a file that safetensors reads."""
    setup = tiny_setup(tmp_path, EPOCHS, devices=2)
    problem = tiny_problem(setup, accuracy=likes(2, []))
    train(problem, setup)
    file = tmp_path / "train" / "epochs" / "2.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    with pytest.raises(
        DataError, match=r"2\.safetensors cannot be read \(it was changed after it was written"
    ):
        train(problem, setup)
    write_safetensors(file, load_file(file), {})  # as an older clipjax wrote it
    train(tiny_problem(setup, accuracy=likes(2, [])), setup)


def test_batches_that_do_not_fit_are_refused() -> None:
    setup = tiny_setup(None, dataclasses.replace(RECIPE, accumulate=3, batch_size=12), devices=8)
    with pytest.raises(
        UsageError, match="12 in 3 parts does not divide over 8 devices: give a multiple of 24"
    ):
        train(tiny_problem(setup), setup)
    setup = tiny_setup(None, dataclasses.replace(RECIPE, accumulate=2), devices=2)
    with pytest.raises(UsageError, match="compares the images of a batch with each other"):
        train(tiny_problem(setup, contrastive=True), setup)
    setup = tiny_setup(None, dataclasses.replace(RECIPE, batch_size=48), devices=2)
    with pytest.raises(UsageError, match="48 is larger than the data set of 40"):
        train(tiny_problem(setup), setup)


def test_the_rate_is_not_the_loss_of_another_step(whole: Params) -> None:
    """Dropout's keys follow the step: without them the run is another one."""

    def constant(params: Params, batch: dict[str, Array], key: Array) -> Any:
        return TinyLoss(keep=1.0)(params, batch, key)

    setup = tiny_setup(devices=2)
    assert not same_bits(train(tiny_problem(setup, loss=constant), setup).params, whole)
