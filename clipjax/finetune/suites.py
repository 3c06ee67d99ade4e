"""Suites: configs/suites/*.toml -> which runs make a table of the study.

Two kinds of table in a file. An evaluation suite names collections or tasks (`run`) and the `[[metrics]]`
that a before/after table shows. A training suite lists fine-tuning runs (`[[runs]]`: recipe and model).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clipjax.config import config_dir
from clipjax.errors import DataError, unknown_name
from clipjax.storage.reading import is_file, read_toml
from clipjax.tasks.task import all_tasks

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """One number of a before/after table: which row it is, and which way is better."""

    task: str
    metric: str
    title: str
    better: Better
    slice: str | None = None


@dataclass(frozen=True)
class Job:
    """One fine-tuning run of a suite: a recipe's name and a model's id."""

    recipe: str
    model: str


@dataclass(frozen=True)
class Suite:
    """A file of configs/suites.

    Attributes:
        run: tasks or collections, on all of their data sets that lie below one folder.
        datasets: only on these; empty: on all.
        metrics: of the table, in its order.
        runs: fine-tuning runs.
    """

    name: str
    title: str
    run: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    runs: tuple[Job, ...] = ()

    def shown(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Those of a run's rows that are in the table."""
        wanted = {(each.task, each.metric, each.slice) for each in self.metrics}
        return [row for row in rows if (row["task"], row["metric"], row["slice"]) in wanted]


def load_suite(name: str | Path) -> Suite:
    """A suite by name, or from a file that ends in .toml.

    Raises:
        UsageError: there is none of that name.
        DataError: an unknown, missing or mistyped key; names file and key.
    """
    path = Path(name) if str(name).endswith(".toml") else config_dir() / "suites" / f"{name}.toml"
    if not str(name).endswith(".toml") and not is_file(path):
        known = [each.stem for each in (config_dir() / "suites").glob("*.toml")]
        raise unknown_name("suite", str(name), known)
    record = read_toml(path)
    _check(
        record,
        {"title": str, "run": list, "datasets": list, "metrics": list, "runs": list},
        {"title"},
        str(path),
    )
    for key in ("run", "datasets"):
        for name in record.get(key, ()):
            if not isinstance(name, str):
                raise DataError(f"{path}: {key} must be a list of names, and holds {name!r}")
    metrics = [_record(Metric, each, f"{path}: metrics") for each in record.get("metrics", [])]
    for metric in metrics:
        if metric.task not in all_tasks():
            raise DataError(f"{path}: metrics: unknown task {metric.task!r}; known: {', '.join(all_tasks())}")
        if metric.better not in get_args(Better):
            raise DataError(f"{path}: better = {metric.better!r} is not one of {', '.join(get_args(Better))}")
    runs = [_record(Job, each, f"{path}: runs") for each in record.get("runs", [])]
    run, datasets = (tuple(record.get(key, ())) for key in ("run", "datasets"))
    return Suite(path.stem, record["title"], run, datasets, tuple(metrics), tuple(runs))


def _record(cls: type, given: Any, where: str) -> Any:
    fields = dataclasses.fields(cls)
    required = {each.name for each in fields if each.default is dataclasses.MISSING}
    _check(given, {each.name: str for each in fields}, required, where)
    return cls(**given)


def _check(record: Any, kinds: Mapping[str, type], required: set[str], where: str) -> None:
    if not isinstance(record, Mapping):
        raise DataError(f"{where} must be tables, not {record!r}")
    for key, value in record.items():
        if key not in kinds:
            raise DataError(f"{where}: unknown key {key!r}; known: {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise DataError(f"{where}: {key} = {value!r} must be of type {kinds[key].__name__}")
    if missing := required - set(record):
        raise DataError(f"{where}: the key {min(missing)!r} is missing")
