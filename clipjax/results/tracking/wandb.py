"""Weights & Biases. WANDB_MODE=offline keeps runs in ./wandb (or WANDB_DIR), for `wandb sync`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from clipjax.results.row import AnyRow
from clipjax.results.tracking.tracker import TrackedRun, Tracker, interval_values


class _Run:
    def __init__(self, run: TrackedRun) -> None:
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "clipjax"),
            id=run.id,
            name=run.name,
            group=run.group or None,
            job_type=run.kind,
            config=dict(run.config),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", quiet=True),  # it would take over stdout
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def row(self, row: AnyRow) -> None:
        self._run.summary.update(interval_values(row))

    def finish(self) -> None:
        self._run.finish()


TRACKER = Tracker("wandb", "Weights & Biases", start=_Run, packages=("wandb",))
