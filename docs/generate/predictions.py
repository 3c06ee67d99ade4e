"""The files of predictions that each task takes."""

from __future__ import annotations

from collections.abc import Iterable

from clipjax.tasks.task import PredictionFiles, all_tasks
from docs.generate.markdown import code, table


def predictions_part() -> str:
    """A line for each form of a file beside the per-image table: what it must contain, and what it may."""
    files = ((name, form) for name, task in sorted(all_tasks().items()) for form in _forms(task.predictions))
    return table(["task", "file", "contains", "may contain"], ([code(name), *form] for name, form in files))


def _forms(files: PredictionFiles) -> Iterable[list[str]]:
    if files.csv is not None:
        needed = files.csv.needed
        yield ["`.csv`", _join(needed), _join(name for name in files.csv.columns if name not in needed)]
    if files.arrays:
        needed = [name for name, must in files.arrays.items() if must]
        yield ["`.npz`", _join(needed), _join(name for name in files.arrays if name not in needed)]


def _join(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))
