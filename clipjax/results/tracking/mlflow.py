"""MLflow. Without MLFLOW_TRACKING_URI runs are in ./mlflow.db, for `mlflow ui`."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from clipjax.results.row import AnyRow
from clipjax.results.tracking.tracker import TrackedRun, Tracker, interval_values

_ID = "clipjax.id"  # the tag by which a resumed run is found
_MOST = 100  # params that MLflow takes at once
_LONGEST = 6000  # characters of a param


class _Run:
    def __init__(self, run: TrackedRun) -> None:
        self._client: Any = importlib.import_module("mlflow").MlflowClient()
        self._entities: Any = importlib.import_module("mlflow.entities")
        experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "clipjax"))
        there = self._client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'", max_results=1)
        if there:
            self._id = there[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        tags = {_ID: run.id, "clipjax.kind": run.kind, "clipjax.group": run.group}
        self._id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        self._log_config(run.config)

    def _log_config(self, config: Mapping[str, Any]) -> None:
        params = iter([self._entities.Param(name, str(value)[:_LONGEST]) for name, value in config.items()])
        while batch := list(islice(params, _MOST)):
            self._client.log_batch(self._id, params=batch)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def row(self, row: AnyRow) -> None:
        self.log(0, interval_values(row))

    def finish(self) -> None:
        self._client.set_terminated(self._id)


def _experiment(client: Any, name: str) -> str:
    there = client.get_experiment_by_name(name)
    return client.create_experiment(name) if there is None else there.experiment_id


TRACKER = Tracker("mlflow", "MLflow", start=_Run, packages=("mlflow", "sqlalchemy", "alembic"))
