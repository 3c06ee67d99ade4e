"""A tracker is a module of this package with a `TRACKER` record, or a plug-in.

    TRACKER = Tracker("mine", "Mine", start=MyRun, packages=("mine",))     # MyRun: a TrackerRun

A tracker's own settings decide where it sends what it gets and whether it works offline (WANDB_MODE,
MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipjax.errors import UsageError
from clipjax.registry import Registry
from clipjax.results.row import AnyRow

Value = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before it gets numbers.

    Attributes:
        id: letters and digits; a resumed run has the same.
        kind: "evaluation" or "fine-tuning".
        config: what decides its numbers.
        folder: for a tracker that writes files of its own; the run's alone.
        group: what the run is a part of, such as a suite; "" if nothing.
        done: steps that were logged before. Later ones, of a run that was killed, are logged again.
    """

    id: str
    name: str
    kind: str
    config: Mapping[str, Value]
    folder: Path
    group: str = ""
    done: int = 0


class TrackerRun(Protocol):
    """A run that a tracker shows. Every method may raise any Exception: see `tracking`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a training step, all finite; steps ascend."""
        ...

    def row(self, row: AnyRow) -> None:
        """Take a result row with a value, of a whole data set."""
        ...

    def finish(self) -> None:
        """Keep or send everything; nothing follows."""
        ...


@dataclass(frozen=True)
class Tracker:
    """A tracker.

    Attributes:
        title: its name as it is written in texts.
        start: begins to show a run.
        packages: Python packages that it needs; clipjax's extra of the tracker's name installs them.
    """

    name: str
    title: str
    start: Callable[[TrackedRun], TrackerRun]
    packages: tuple[str, ...] = ()


TRACKERS = Registry("tracker", "TRACKER", group="trackers")


def check_trackers(names: Iterable[str]) -> None:
    """Raises UsageError for an unknown tracker, or one whose packages are not installed."""
    for name in names:
        for package in TRACKERS.find(name, Tracker).packages:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"--track {name}: the package {package} is not installed: pip install 'clipjax[{name}]'"
                )


def interval_values(row: AnyRow) -> dict[str, float]:
    """A row's numbers by name: {"top1": 0.61, "top1.lo": 0.6, "top1.hi": 0.62, "top1.n": 50000}."""
    name, interval = row["metric"], row["interval"]
    limits = {} if interval is None else {f"{name}.lo": interval["lo"], f"{name}.hi": interval["hi"]}
    images = {} if row["n"] is None else {f"{name}.n": row["n"]}
    return {name: row["value"], **limits, **images}
