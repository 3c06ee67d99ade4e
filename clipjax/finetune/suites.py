"""Fine-tuning runs that a table of the study shows, and the numbers it compares.

Files of configs/before_after have `run` and `[[metrics]]`, those of configs/finetune_runs `[[runs]]`; a
user's file may have both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipjax.config import ConfigFolder, config_files
from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read
from clipjax.tasks.task_names import TASKS

FOLDERS = (ConfigFolder.BEFORE_AFTER, ConfigFolder.FINETUNE_RUNS)
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    task: str
    metric: str
    title: str
    better: Better
    slice: str | None = None


@dataclass(frozen=True)
class SuiteJob:
    recipe: str
    model: str


@dataclass(frozen=True)
class FinetuneSuite:
    """A file of configs/before_after or configs/finetune_runs.

    Attributes:
        run: tasks or collections, on all data sets of a folder.
        datasets: only these; empty: all.
    """

    name: str
    title: str
    run: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    runs: tuple[SuiteJob, ...] = ()

    def shown(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        wanted = {(each.task, each.metric, each.slice) for each in self.metrics}
        return [row for row in rows if (row["task"], row["metric"], row["slice"]) in wanted]


def load_suite(name: str | Path) -> FinetuneSuite:
    """A suite by name, or from a .toml file.

    Raises:
        UsageError: an unknown name.
        DataError: an unknown, missing or mistyped key, or an unknown task.
    """
    path = Path(name) if str(name).endswith(".toml") else _shipped(str(name))
    suite = read(FinetuneSuite, read_toml(path), path, given={"name": path.stem})
    for metric in suite.metrics:
        if metric.task not in TASKS.names():
            raise DataError(
                f"{path}: metrics: unknown task {metric.task!r}; known: {', '.join(TASKS.names())}"
            )
    return suite


def _shipped(name: str) -> Path:
    known = {name: path for folder in FOLDERS for name, path in config_files(folder).items()}
    known_name("suite", name, known)
    return known[name]
