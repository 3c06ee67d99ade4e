"""configs/demo.toml: what the demo runs, prints and draws."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.config import ConfigFolder, config_dir, config_files
from clipjax.finetune.method_names import recipe_names
from clipjax.results.row import Row
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read


@dataclass(frozen=True)
class DemoColumn:
    """`percent`: show a fraction in percent."""

    title: str
    task: str
    dataset: str
    metric: str
    slice: str | None = None
    prompts: str | None = None
    percent: bool = True

    def find(self, rows: Sequence[Row], model: str) -> Row | None:
        """A model's newest row; without `prompts`, with the card's own set."""
        wanted = (model, self.task, self.dataset, self.metric, self.slice)
        names = ("model", "task", "dataset", "metric", "slice")
        newest = (row for row in reversed(rows) if row["model"] == model and row["metric"] == self.metric)
        matches = (row for row in newest if tuple(row[name] for name in names) == wanted)
        own = (row for row in matches if has_own_prompts(row) != bool(self.prompts))
        right = (row for row in own if self.prompts in (None, row["convention"].get("prompts")))
        return next(right, None)


@dataclass(frozen=True)
class DemoTable:
    heading: str
    columns: tuple[DemoColumn, ...]


@dataclass(frozen=True)
class DemoRun:
    """An empty list means all data sets."""

    task: str
    datasets: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure of a task: it shows all models, or with `dataset` the last model on it."""

    name: str
    task: str
    dataset: str | None = None


@dataclass(frozen=True)
class Tuning:
    order: tuple[str, ...]
    suite: str
    held_out: int
    interpolated: str
    alphas: tuple[float, ...]
    reference: str
    columns: tuple[DemoColumn, ...]

    @property
    def titles(self) -> list[str]:
        return [column.title for column in self.columns]


@dataclass(frozen=True)
class DemoFile:
    runs: tuple[DemoRun, ...]
    selection: DemoRun
    tuning: Tuning
    accuracy: DemoRun
    figures: tuple[Figure, ...]
    tables: tuple[DemoTable, ...]

    @property
    def prompts(self) -> list[str]:
        """Prompt sets of all runs, in addition to the cards' own."""
        return list(dict.fromkeys(name for run in self.runs for name in run.prompts))


@functools.cache
def settings() -> DemoFile:
    path = config_dir() / "demo.toml"
    return read(DemoFile, read_toml(path), path)


def has_own_prompts(row: Row) -> bool:
    return row["convention"].get("prompts") not in settings().prompts


def recipes() -> list[str]:
    """The recipes in the order of configs/demo.toml; others come last."""
    order = settings().tuning.order
    names = [name for name in recipe_names() if name.startswith("demo_")]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def tuned_files(names: Sequence[str], out: Path) -> Iterator[Path]:
    """The files that end the runs of these recipes; of a recipe without `seeds`, its first run."""
    files = config_files(ConfigFolder.FINETUNE)
    for name in names:
        for seed in read_toml(files[name]).get("seeds", (1,)):
            yield out / "finetuned" / name / f"seed{seed}" / "run.json"
