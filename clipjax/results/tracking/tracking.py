"""The trackers of one command: what they are told of finished runs and of training.

    tracking = Tracking(["wandb", "mlflow"], group="study")
    tracking.result(rows, results)                       # of a finished run
    run = tracking.start(TrackedRun(...))                # or step by step
    run.log(10, {"loss": 0.5})
    run.finish()

A tracker that fails is named once and left out from then on; the command's own work goes on. Only the first
of several processes tracks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clipjax.results.row import AnyRow
from clipjax.results.runs.failed_runs import reason_of
from clipjax.results.tracking.tracker import TRACKERS, TrackedRun, Tracker, TrackerRun, Value

FOLDER = ".tracked"  # below a folder of results, of trackers that write files of their own
_FIELDS = ("model", "task", "dataset", "precision", "framework", "recipe_hash", "run_id")
_log = logging.getLogger(__name__)


class Tracking:
    """The trackers of these names, none if there are no names.

    Args:
        group: as in `TrackedRun`, of all runs.

    Raises UsageError for an unknown name.
    """

    def __init__(self, names: Iterable[str] = (), group: str = "") -> None:
        self._trackers = {name: TRACKERS.find(name, Tracker) for name in names}
        self._group = group

    def start(self, run: TrackedRun) -> TrackedBy:
        """Show a run in every tracker."""
        run = replace(run, group=run.group or self._group)
        started: dict[str, TrackerRun] = {}
        for name, tracker in list(self._trackers.items()):
            try:
                started[name] = tracker.start(run)
            except Exception as error:
                self.leave_out(name, error)
        return TrackedBy(started, self.leave_out)

    def result(self, rows: Sequence[AnyRow], results: Path) -> None:
        """Show a finished evaluation: its numbers of whole data sets. Each run id is a run of its own."""
        for run_id in dict.fromkeys(row["run_id"] for row in rows) if self._trackers else ():
            own = [row for row in rows if row["run_id"] == run_id]
            shown = self.start(_evaluation(own[0], results))
            for row in own:
                if row["slice"] is None and row["value"] is not None:
                    shown.row(row)
            shown.finish()

    def leave_out(self, name: str, error: Exception) -> None:
        """Name a tracker that failed, and why; it gets nothing from then on."""
        if self._trackers.pop(name, None) is not None:
            _log.warning("%s has failed and is left out from now on: %s", name, reason_of(error))


class TrackedBy:
    """A run in several trackers. No method raises."""

    def __init__(self, runs: Mapping[str, TrackerRun], failed: Callable[[str, Exception], None]) -> None:
        self._runs, self._failed = dict(runs), failed

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """As in `TrackerRun`."""
        self._tell(lambda run: run.log(step, values))

    def row(self, row: AnyRow) -> None:
        """As in `TrackerRun`."""
        self._tell(lambda run: run.row(row))

    def finish(self) -> None:
        """As in `TrackerRun`."""
        self._tell(lambda run: run.finish())

    def _tell(self, tell: Callable[[TrackerRun], None]) -> None:
        for name, run in list(self._runs.items()):
            try:
                tell(run)
            except Exception as error:
                del self._runs[name]
                self._failed(name, error)


def _evaluation(row: AnyRow, results: Path) -> TrackedRun:
    model, run_id = row["model"], row["run_id"]
    parts = {"convention": row["convention"], "facts": row["model_facts"]}
    fields = {name: row.get(name) for name in _FIELDS}
    fields |= {f"{part}.{name}": value for part, record in parts.items() for name, value in record.items()}
    config: dict[str, Value] = {name: each for name, each in fields.items() if isinstance(each, Value)}
    prompts = row["convention"].get("prompts")
    return TrackedRun(
        id="".join(filter(str.isalnum, run_id)),
        name=f"{model}: {row['task']} on {row['dataset']}{f', prompts {prompts}' if prompts else ''}",
        kind="evaluation",
        config=config,
        folder=results / FOLDER / model.replace("/", "_") / run_id,
    )
