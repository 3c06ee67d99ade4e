"""Tasks: from scores to numbers. One file a task, found by scanning this package for a module-level `TASK`.

A task never runs a model: it gets stored features and a head. It says what it needs, which section of the
paper it belongs to and its convention (what the literature leaves open), and its `run` turns `Inputs` into an
`Outcome`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.errors import unknown_name
from clipjax.labels import LabelSpace, Projection
from clipjax.metrics.intervals import Interval

if TYPE_CHECKING:
    from clipjax.heads import Head


@dataclass(frozen=True)
class Inputs:
    """What a task is given.

    Attributes:
        ids: [N], stable names of the images.
        features: float32 [N, D], as the store holds them.
        labels: int [N], indices into `label_space`; None for a data set without labels.
        head: from features to logits over `head.label_space`.
        label_space: of the data set.
        projection: from the head's label space to the data set's; None if they are the same.
        columns: the manifest's further columns, [N] each.
    """

    ids: Sequence[str]
    features: np.ndarray
    labels: np.ndarray | None
    head: Head
    label_space: LabelSpace
    projection: Projection | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One number. `value` is None where it is not defined, and `note` then says why.

    Attributes:
        metric: e.g. "top1"; accuracies are fractions, 0..1.
        n: images that it rests on.
        slice: which part of the data set, e.g. "class:n01440764"; None for all of it.
        aggregates: what it is an unweighted mean over (e.g. "classes"); None for a mean over images.
    """

    metric: str
    value: float | None
    n: int
    interval: Interval | None = None
    slice: str | None = None
    aggregates: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a task returns: its numbers, and columns of length N with what is known of each image."""

    measures: list[Measure]
    images: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A record that a task module exposes as `TASK`.

    Attributes:
        version: raised whenever the same inputs may give another number.
        section: of the paper.
        needs: what must exist of a model and a data set ("image", "head", "labels", "text", "cosine").
        convention: what a reader must know to compare the number with another's.
    """

    name: str
    version: int
    section: str
    needs: tuple[str, ...]
    convention: Mapping[str, Any]
    run: Callable[[Inputs], Outcome]


@functools.cache
def all_tasks() -> dict[str, Task]:
    """Every task by its name.

    Raises:
        ValueError: two modules use one name (a mistake of the programmer, not of the user).
    """
    found: dict[str, Task] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        task = getattr(importlib.import_module(module.name), "TASK", None)
        if task is not None:
            add_task(found, task)
    return found


def add_task(found: dict[str, Task], task: Task) -> None:
    """Put a task among those found; a second one of the same name is refused."""
    if task.name in found:
        raise ValueError(f"two tasks are called {task.name!r}: give one of the modules another TASK.name")
    found[task.name] = task


def find_task(name: str) -> Task:
    """The task of this name; UsageError with the nearest names if there is none."""
    tasks = all_tasks()
    if name not in tasks:
        raise unknown_name("task", name, list(tasks))
    return tasks[name]
