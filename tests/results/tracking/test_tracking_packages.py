"""wandb and mlflow themselves, offline: what they wrote is read back, and the stand-ins are like them.

Neither is installed with the tests: together they are 200 MB, and take 2 s of the processor to import. In an
environment of their own: pip install 'clipjax[wandb,mlflow]' and run this file.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _trackers import Mlflow, MlflowClient, Shown, Wandb, WandbRun, mlflow_runs, wandb_runs
from test_tracking import ID, check_result, check_steps, rows, training

from clipjax.results.tracking.tracking import TrackedBy, Tracking

pytestmark = pytest.mark.filterwarnings("default")
Read = Callable[[], dict[str, Shown]]
WHY = "needs {}, which the tests do not install: pip install 'clipjax[{}]'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all: wandb keeps its first one for the whole process."""
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(params=["wandb", "mlflow"])
def tracker(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Read]:
    name = request.param
    pytest.importorskip(name, reason=WHY.format(name, name))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return name, (lambda: whole_wandb_runs(folder)) if name == "wandb" else mlflow_runs


def whole_wandb_runs(folder: Path) -> dict[str, Shown]:
    """Its other process may still be writing the end of a run that is finished here."""
    until = time.monotonic() + 60
    while not all(shown.finished for shown in wandb_runs(folder).values()) and time.monotonic() < until:
        time.sleep(0.1)
    return wandb_runs(folder)


def test_a_finished_run(tracker: tuple[str, Read], tmp_path: Path) -> None:
    name, runs = tracker
    Tracking([name], group="study").result(rows(), tmp_path / "results")
    check_result(runs()[ID])


def test_steps_of_a_run_that_is_resumed(tracker: tuple[str, Read], tmp_path: Path) -> None:
    name, runs = tracker
    tracking = Tracking([name])

    def start(done: int) -> TrackedBy:
        if done:
            time.sleep(1.1)  # wandb names a folder after the second in which the run started
        return tracking.start(training(tmp_path, done))

    check_steps(start, lambda: {own: shown for own, shown in runs().items() if own != ID})


def takes(function: Callable[..., Any], stand_in: Callable[..., Any]) -> bool:
    """Whether the package's function has all parameters of the stand-in's."""
    return inspect.signature(stand_in).parameters.keys() <= inspect.signature(function).parameters.keys()


def test_the_stand_in_of_wandb_takes_what_wandb_takes() -> None:
    wandb: Any = pytest.importorskip("wandb", reason=WHY.format("wandb", "wandb"))
    assert takes(wandb.init, Wandb().init)
    assert {"console", "quiet"} <= wandb.Settings.model_fields.keys()
    assert takes(wandb.Run.log, WandbRun.log)
    assert takes(wandb.Run.finish, WandbRun.finish)


def test_the_stand_in_of_mlflow_takes_what_mlflow_takes() -> None:
    mlflow: Any = pytest.importorskip("mlflow", reason=WHY.format("mlflow", "mlflow"))
    own = {name: each for name, each in vars(MlflowClient).items() if not name.startswith("_")}
    assert own
    for name, each in own.items():
        assert takes(getattr(mlflow.MlflowClient, name), each), name
    stand_in: Any = Mlflow().entities
    assert takes(mlflow.entities.Metric, stand_in.Metric)
    assert takes(mlflow.entities.Param, stand_in.Param)
