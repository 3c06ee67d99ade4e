"""TensorBoard: event files in the run's folder, which `tensorboard --logdir` shows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from clipjax.results.row import AnyRow
from clipjax.results.tracking.tracker import TrackedRun, Tracker, interval_values
from clipjax.storage.remote.buckets import refuse_url


class _Events:
    """One file of events. Raises UsageError for a folder on a bucket."""

    def __init__(self, run: TrackedRun) -> None:
        refuse_url(run.folder, "what TensorBoard shows")
        from tensorboardX import SummaryWriter  # here, because it imports torch if that is installed

        first = run.done + 1
        self._writer = SummaryWriter(
            str(run.folder),
            purge_step=first if run.done else None,  # drops an earlier run's events of these steps
            flush_secs=10,
            filename_suffix=f".{first}",
        )
        self._config = run.config

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def row(self, row: AnyRow) -> None:
        if self._config:
            self._writer.add_text("config", json.dumps(self._config, indent=1), 0)
            self._config = {}
        for name, value in interval_values(row).items():
            self._writer.add_scalar(f"{row['task']}/{row['dataset']}/{name}", value, 0)

    def finish(self) -> None:
        try:
            self._writer.close()
        except OSError:
            # Otherwise it tries again at interpreter exit, with a traceback.
            file: Any = self._writer.file_writer
            file.event_writer = contextlib.ExitStack()
            raise


TRACKER = Tracker("tensorboard", "TensorBoard", start=_Events)
