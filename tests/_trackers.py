"""Stand-ins for the packages wandb and mlflow, with what clipjax calls of them, and readers of both.

A stand-in keeps what it was told in memory and refuses what the package refuses.
`tests/results/tracking/test_tracking_packages.py` compares them with the packages, where those are installed.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Shown:
    """A run as a tracker has it."""

    name: str
    config: dict[str, str] = field(default_factory=dict)
    points: dict[tuple[str, int], float] = field(default_factory=dict)  # of steps; a row's are at step 0
    finished: bool = False


class Wandb(ModuleType):
    """The package wandb."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, Shown] = {}

    def init(
        self,
        *,
        project: str,
        id: str,
        name: str,
        group: str | None,
        job_type: str,
        config: dict[str, Any],
        resume: str,
        reinit: str,
        settings: Any,
    ) -> WandbRun:
        assert re.fullmatch(r"[\w-]{1,64}", id)
        assert (resume, reinit) == ("allow", "create_new")
        shown = self.runs.setdefault(id, Shown(name))
        shown.config |= {key: str(value) for key, value in config.items()}
        return WandbRun(shown)

    def Settings(self, *, console: str, quiet: bool) -> object:
        return object()


class WandbRun:
    """A run of wandb's."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self.summary = self

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        self._shown.points |= {(name, step): value for name, value in data.items()}

    def update(self, d: Mapping[str, Any]) -> None:
        """Of `summary`."""
        self._shown.points |= {(name, 0): value for name, value in d.items()}

    def finish(self) -> None:
        self._shown.finished = True


class Mlflow(ModuleType):
    """The package mlflow."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, Shown] = {}
        self.entities = ModuleType("mlflow.entities")
        self.entities.Metric = lambda key, value, timestamp, step: (key, step, value)  # type: ignore[attr-defined]
        self.entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]

    def MlflowClient(self) -> MlflowClient:
        return MlflowClient(self.runs)


class MlflowClient:
    """A client of mlflow's; a run's id is that of its tag."""

    def __init__(self, runs: dict[str, Shown]) -> None:
        self._runs = runs

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if self._runs else None

    def create_experiment(self, name: str) -> str:
        return "1"

    def search_runs(self, experiment_ids: list[str], filter_string: str = "", max_results: int = 1000) -> Any:
        [tag, value] = re.findall(r"^tags\.`([\w.]+)` = '(\w+)'$", filter_string)[0]
        assert tag == "clipjax.id"
        return [SimpleNamespace(info=SimpleNamespace(run_id=value))] if value in self._runs else []

    def create_run(self, experiment_id: str, tags: dict[str, Any], run_name: str) -> Any:
        self._runs[tags["clipjax.id"]] = Shown(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=tags["clipjax.id"]))

    def update_run(self, run_id: str, status: str) -> None:
        self._runs[run_id].finished = status != "RUNNING"

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        assert len(params) <= 100
        shown = self._runs[run_id]
        for key, step, value in metrics:
            assert re.fullmatch(r"[/\w.\- :]+", key), f"invalid metric name {key}"
            shown.points[key, step] = value
        for key, value in params:
            assert re.fullmatch(r"[/\w.\- :]+", key), f"invalid parameter name {key}"
            assert len(value) <= 6000
            assert shown.config.setdefault(key, value) == value, "a parameter is changed"

    def set_terminated(self, run_id: str) -> None:
        self._runs[run_id].finished = True


def wandb_runs(folder: Path) -> dict[str, Shown]:
    """The runs below wandb's folder, read from its own files: blocks of records with length and kind."""
    from wandb.proto import wandb_internal_pb2  # type: ignore[import-not-found]

    runs: dict[str, Shown] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        shown = runs.setdefault(file.stem.removeprefix("run-"), Shown(""))
        shown.finished = False
        for data in _records(file.read_bytes()):
            record: Any = wandb_internal_pb2.Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                shown.name = record.run.display_name
                told = [each for each in record.run.config.update if not each.key.startswith("_")]
                shown.config |= {each.key: _text(each.value_json) for each in told}
            elif kind == "history":
                values = {each.key or each.nested_key[0]: each.value_json for each in record.history.item}
                step = record.history.step.num
                shown.points |= {(key, step): json.loads(value) for key, value in values.items()}
            elif kind == "summary":
                updated = [each for each in record.summary.update if each.key]
                shown.points |= {(each.key, 0): json.loads(each.value_json) for each in updated}
            shown.finished = kind == "exit"
    return runs


def _text(value_json: str) -> str:
    value = json.loads(value_json)
    return value if isinstance(value, str) else str(value)


def _records(data: bytes) -> Iterator[bytes]:
    at, whole, block = 7, b"", 32768
    while at + 7 <= len(data):
        left = block - at % block
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def mlflow_runs() -> dict[str, Shown]:
    """The runs in mlflow's database, by their tag."""
    import mlflow  # type: ignore[import-not-found]

    client, runs = mlflow.MlflowClient(), {}
    experiment = client.get_experiment_by_name("clipjax")
    for run in client.search_runs([experiment.experiment_id]):
        names = list(run.data.metrics)
        history = [each for name in names for each in client.get_metric_history(run.info.run_id, name)]
        points = {(each.key, each.step): each.value for each in history}
        finished = run.info.status == "FINISHED"
        runs[run.data.tags["clipjax.id"]] = Shown(run.info.run_name, dict(run.data.params), points, finished)
    return runs
