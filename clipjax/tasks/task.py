"""The contract of a task: from stored features to numbers, without running a model.

`describe` turns features and a head into one row per image; `measure` turns rows into numbers. A task is a
file of this folder; its name is the task's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipjax.data.pairs.matching import Matching
from clipjax.errors import DataError
from clipjax.metrics.uncertainty.calibration_error import Binned
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.tasks.inputs import About, Inputs
from clipjax.tasks.task_names import IMAGES, TASKS

Columns = Mapping[str, Any]
"""One row per image: column name -> N values, arrays of one or two axes, or lists."""


def finite_column(columns: Columns, name: str) -> np.ndarray:
    """float32 [N] if stored so, else float64 [N].

    Raises DataError naming the image (column `id`), else the row, if a number is not finite.
    """
    values = np.asarray(columns[name])
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        which = columns["id"][int(bad[0])] if "id" in columns else f"row {bad[0]}"
        raise DataError(f"{which}: its {name} is {values[bad[0]]}")
    return values


class Annotations(Protocol):
    """Facts about images from outside the data set."""

    @property
    def digest(self) -> str:
        """SHA-256 of the contents."""
        ...


@dataclass(frozen=True)
class Measure:
    """One number; if it is undefined, `value` is None and `note` gives the reason.

    Attributes:
        metric: e.g. "top1"; accuracies are fractions, 0..1.
        n: number of images measured.
        slice: e.g. "class:n01440764"; None: the whole data set.
        aggregates: the items of an unweighted mean (e.g. "classes"); None: images.
    """

    metric: str
    value: float | None
    n: int
    interval: Interval | None = None
    slice: str | None = None
    aggregates: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class TaskResult:
    measures: list[Measure]
    images: dict[str, Any]


@dataclass(frozen=True)
class Paired:
    """The numbers in which two runs on the same images are compared, by `metric_name`.

    Attributes:
        right: whether each image is right, bool [N], for McNemar's test of proportions; shorter for a metric
            of some images or of sets of images.
        over: the images of a metric that covers some alone, bool [N]; not compared if the runs differ here.
        resampled: other numbers, by a paired bootstrap: draws int [B, N] -> float64 [B] each.
        groups: [N], samples drawn independently (in- and out-of-distribution images); None: one.
        clusters: [N], units drawn whole (images of one object); None, also for all images of a group: single
            images.
        crossed: further random factors, [N] units each, drawn on their own (`Resampling.crossed`).
        binned: other numbers, by `calibration_error.difference`: bias-corrected calibration errors.
        untested: metrics that are not compared -> why.
        annotated: metrics not compared under different annotations; None: all.
        convention: what else decides the numbers, e.g. {"headline": "mcm"}.
        same: a metric that another run may have and this one has not -> the one of `right` that it would be.
    """

    right: Mapping[str, np.ndarray] = field(default_factory=dict)
    resampled: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    groups: Sequence[str] | None = None
    clusters: Sequence[str | None] | None = None
    crossed: Sequence[Sequence[str]] = ()
    over: Mapping[str, np.ndarray] = field(default_factory=dict)
    binned: Mapping[str, Binned] = field(default_factory=dict)
    untested: Mapping[str, str] = field(default_factory=dict)
    annotated: Sequence[str] | None = None
    convention: Mapping[str, Any] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Csv:
    """A task's own CSV format of predictions.

    Attributes:
        columns: all allowed ones, in order.
        read: ("file.csv:2", {...}) pairs -> per-image columns with `id`. Raises DataError naming the row.
        join: called once ids are known to be unique -> the columns for `measure`; None: the same.
    """

    columns: tuple[str, ...]
    needed: tuple[str, ...]
    read: Callable[[Sequence[tuple[str, Mapping[str, str]]], About], dict[str, Any]]
    join: Callable[[Columns, About], dict[str, Any]] | None = None


@dataclass(frozen=True)
class PredictionFiles:
    """The prediction files that a task takes beside the per-image table (.parquet).

    Attributes:
        arrays: arrays of an .npz -> is it required; in-distribution ones start with `id_`. Empty: no .npz.
        prefix: of the data set's own arrays ("ood_").
        of_cosines: columns computed from cosines [N, K], optional in an .npz.
        dataset: the card for a file that names none; None: the file's name.
        ranges: number columns beside those of all tasks -> smallest and largest value.
        bools: bool columns beside those of all tasks.
        several_labels: `correct` may be true by a label that the table does not hold.
    """

    arrays: Mapping[str, bool] = field(default_factory=dict)
    prefix: str = ""
    of_cosines: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    csv: Csv | None = None
    dataset: str | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bools: tuple[str, ...] = ()
    several_labels: bool = False


@dataclass(frozen=True)
class Task:
    """The record that a task module exposes as `TASK`.

    Attributes:
        version: raised whenever the same inputs may give another number.
        section: of the paper; like `needs` a literal, read without an import.
        needs: of a run of images: "head", "labels", "text" (a zero-shot model), "id" (an in-distribution data
            set), "captions", "annotations", "questions" (those of the data set's card).
        convention: choices that the literature leaves open.
        describe: the inputs of a kind of run (`clipjax.tasks.inputs`) -> per-image columns. Raises DataError
            naming an unusable image.
        measure: also takes the columns of a run's images.parquet.
        load_annotations: the user's file or folder; None: the default.
        annotated_by: the task whose runs may be annotations.
        check_annotations: annotations, the recipe and the images of a run with them -> a remark on what was
            compared, or None. Raises DataError if they contradict the run.
        paired: its `About` has no label space or annotations. Without it, runs are not compared.
        matcher: of a task of pairs: a card's matching -> a `Matcher` of `clipjax.embeddings.pairs` that also
            has `words()`, for the convention.
        compares_precisions: `describe` returns `prediction` and, with labels, `correct`.
        usual: metrics that `clipjax eval` prints, with their slices; (): all without a slice.
        kinds: of run, by preference: a model's run is of the first that takes the model. A literal, too.
        headlines: the numbers by which two runs are judged, fixed before any data. Each is its names in order
            of preference: the first that both runs have is tested, corrected for their number. Other metrics
            are shown without a verdict. (): every metric of `paired` is tested.
        shares: metrics of `paired` that are shares of all images, the most used first: which difference a
            sample tells is known before a run.
        proportions: the names of all that `paired` may have in `right`; `*` stands for any text. A gate
            refuses other metrics before it runs. None: not stated.
        fits: choices in what is fitted on training images, which the user may give beside the data; only runs
            with them have these in their recipes. None: the task fits nothing.
    """

    name: str
    version: int
    section: str
    needs: tuple[str, ...]
    convention: Mapping[str, Any]
    describe: Callable[[Any], dict[str, Any]]
    measure: Callable[[Columns, About], list[Measure]]
    load_annotations: Callable[[Path | None], Annotations] | None = None
    annotated_by: str | None = None
    check_annotations: Callable[[Any, Mapping[str, Any], Columns], str | None] | None = None
    paired: Callable[[Columns, About], Paired] | None = None
    matcher: Callable[[Matching], Any] | None = None
    predictions: PredictionFiles = field(default_factory=PredictionFiles)
    compares_precisions: bool = False
    usual: tuple[str, ...] = ()
    kinds: tuple[str, ...] = (IMAGES,)
    headlines: tuple[tuple[str, ...], ...] = ()
    shares: tuple[str, ...] = ()
    proportions: tuple[str, ...] | None = None
    fits: Mapping[str, Any] | None = None

    @property
    def tells_apart(self) -> bool:
        """Whether the task reads classes of in-distribution images alone."""
        return "id" in self.needs and "labels" not in self.needs

    def headlines_among(self, metrics: Collection[str]) -> tuple[str, ...]:
        """The headlines of runs that both have these metrics."""
        if not self.headlines:
            return tuple(metrics)
        firsts = (next((name for name in names if name in metrics), None) for names in self.headlines)
        return tuple(filter(None, firsts))

    def run(self, inputs: Inputs) -> TaskResult:
        images = self.describe(inputs)
        return TaskResult(self.measure(images, inputs.about), images)


def all_tasks() -> dict[str, Task]:
    """Raises as `find_task`."""
    return TASKS.all(Task)


def find_task(name: str) -> Task:
    """Imports the task's module, and no other task's. Raises as `Registry.find`."""
    return TASKS.find(name, Task)


def precision_tasks() -> list[str]:
    return [name for name, task in all_tasks().items() if task.compares_precisions]
