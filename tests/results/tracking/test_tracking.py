"""Trackers: what they are told of runs and steps, by what they wrote; one that fails is named once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _events import scalars
from _rows import row
from _trackers import Mlflow, Shown, Wandb

from clipjax.errors import UsageError
from clipjax.results.tracking.tracker import TrackedRun, Tracker, check_trackers
from clipjax.results.tracking.tracking import Tracking
from clipjax.storage.remote.buckets import as_path

RUN_ID = "20260131T120000.000000Z-0123abcd"
ID = "20260131T120000000000Z0123abcd"


@pytest.fixture(params=["wandb", "mlflow"])
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Wandb | Mlflow:
    package = {"wandb": Wandb, "mlflow": Mlflow}[request.param]()
    monkeypatch.setitem(sys.modules, request.param, package)
    if isinstance(package, Mlflow):
        monkeypatch.setitem(sys.modules, "mlflow.entities", package.entities)
    return package


def rows() -> list[Any]:
    return [
        row(RUN_ID, metric="top1", value=0.5, n=8, convention={"prompts": "single", "ties": None}),
        row(RUN_ID, metric="top1", value=0.1, slice="red"),
        row(RUN_ID, metric="ece", value=None, interval=None),
        row(RUN_ID, metric="ece", value=0.25, interval=None, n=None),
    ]


def check_result(shown: Shown) -> None:
    one = rows()[0]
    assert shown.name == f"{one['model']}: {one['task']} on {one['dataset']}, prompts single"
    told = {name: value for (name, _), value in shown.points.items() if not name.startswith("_")}
    assert told == {"top1": 0.5, "top1.lo": 0.4, "top1.hi": 0.6, "top1.n": 8, "ece": 0.25}
    assert (shown.config["model"], shown.config["convention.prompts"]) == (one["model"], "single")
    assert "convention.ties" not in shown.config
    assert shown.finished


def check_steps(start: Callable[[int], Any], runs: Callable[[], dict[str, Shown]]) -> None:
    """A run that stops after step 20 and goes on after step 10."""
    first = start(0)
    first.log(10, {"loss": 1.0})
    first.log(20, {"loss": 0.75})
    first.finish()
    second = start(10)
    second.log(20, {"loss": 0.5})
    second.log(30, {"loss": 0.25, "accuracy": 1.0})
    second.finish()
    [shown] = runs().values()
    names = ("loss", "accuracy")  # wandb adds the time, and sums up at step 0
    told = {point: value for point, value in shown.points.items() if point[0] in names and point[1]}
    assert told == {("loss", 10): 1.0, ("loss", 20): 0.5, ("loss", 30): 0.25, ("accuracy", 30): 1.0}
    assert shown.config == {"recipe.steps": "30"}
    assert shown.finished


def training(folder: Path, done: int) -> TrackedRun:
    config = {"recipe.steps": "30"}
    return TrackedRun("0123456789abcdef", "b32: flyp", "fine-tuning", config, folder, "suite", done)


def test_a_finished_run(stand_in: Wandb | Mlflow, tmp_path: Path) -> None:
    Tracking([stand_in.__name__], group="study").result(rows(), tmp_path)
    check_result(stand_in.runs[ID])
    assert list(tmp_path.iterdir()) == []


def test_steps_of_a_run_that_is_resumed(stand_in: Wandb | Mlflow, tmp_path: Path) -> None:
    tracking = Tracking([stand_in.__name__])
    check_steps(lambda done: tracking.start(training(tmp_path, done)), lambda: stand_in.runs)


def test_two_run_ids_are_two_runs(stand_in: Wandb | Mlflow, tmp_path: Path) -> None:
    other = row(RUN_ID.replace("abcd", "0000"), metric="top1", value=0.75)
    Tracking([stand_in.__name__]).result([*rows(), other], tmp_path)
    assert [shown.points["top1", 0] for shown in stand_in.runs.values()] == [0.5, 0.75]


def test_mlflow_takes_a_long_config_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", package.entities)
    config = {f"key{number}": "x" * 7000 for number in range(250)}
    Tracking(["mlflow"]).start(TrackedRun("a1", "long", "fine-tuning", config, tmp_path))
    assert len(package.runs["a1"].config) == 250


def test_tensorboard_has_a_folder_for_each_finished_run(tmp_path: Path) -> None:
    Tracking(["tensorboard", "tensorboard"]).result(rows(), tmp_path)
    one = rows()[0]
    [file] = (tmp_path / ".tracked" / one["model"] / RUN_ID).iterdir()
    name = f"{one['task']}/{one['dataset']}"
    points = {tag.removeprefix(f"{name}/"): value for (tag, _), value in scalars(file).items()}
    assert points.pop("config/text_summary") == 0.0  # a text has no number
    assert points == pytest.approx({"top1": 0.5, "top1.lo": 0.4, "top1.hi": 0.6, "top1.n": 8, "ece": 0.25})
    assert one["model"].encode() in file.read_bytes()


class Failing:
    """A tracker's run that fails with its first step."""

    def __init__(self, run: TrackedRun) -> None:
        self.name = run.name

    def log(self, step: int, values: Any) -> None:
        raise ConnectionError(f"no answer at step {step}\nfrom the server")


def test_a_tracker_that_fails_is_named_once_and_left_out(
    stand_in: Wandb | Mlflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing: Any = Tracker("failing", "Failing", start=Failing)  # type: ignore[arg-type]
    tracking = Tracking([stand_in.__name__])
    tracking._trackers = {"failing": failing, **tracking._trackers}
    with caplog.at_level(logging.WARNING):
        check_steps(lambda done: tracking.start(training(tmp_path, done)), lambda: stand_in.runs)
    assert [each.getMessage() for each in caplog.records] == [
        "failing has failed and is left out from now on: ConnectionError: no answer at step 10"
    ]


def test_a_bucket_is_no_place_for_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Tracking(["tensorboard"]).result(rows(), as_path("memory://lab/results"))
    assert "tensorboard has failed" in caplog.text
    assert "what TensorBoard shows is written to a disk: give a folder there" in caplog.text


def test_what_is_not_there_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown tracker 'wandbb'; did you mean wandb"):
        check_trackers(["wandbb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = r"^--track wandb: the package wandb is not installed: pip install 'clipjax\[wandb\]'$"
    with pytest.raises(UsageError, match=message):
        check_trackers(["tensorboard", "wandb"])
