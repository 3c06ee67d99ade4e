"""Runs on numbers: the column `reading` of a list of images, in units of the model's logit scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.cards import Dataset
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.kinds.kind import Kind
from clipjax.evaluation.request import Request
from clipjax.evaluation.rows import NO_STATS
from clipjax.evaluation.run_data import annotations_of, run_data
from clipjax.evaluation.subject import Subject
from clipjax.tasks.inputs import Inputs
from clipjax.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class ReadingInputs(Inputs):
    """`readings`: float64 [N]."""

    readings: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadingSubject(Subject):
    """`readings`: float64 [N], as they are listed; `unit`: the model's."""

    readings: np.ndarray
    unit: float

    def own_recipe(self) -> dict[str, Any]:
        return {"unit": self.unit}

    def own_convention(self) -> dict[str, Any]:
        return {"unit": "the model's logit scale"}

    def amounts(self) -> list[str]:
        return [f"{len(self.readings)} readings"]

    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        return []

    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, ReadingInputs]:
        return NO_STATS, ReadingInputs(
            ids=self.data.manifest.ids,
            dataset=self.data.name,
            resamples=self.resamples,
            seed=self.seed,
            readings=self.readings / self.unit,
        )


def _not_applicable(model: Encoder, task: Task) -> str | None:
    if model.card.logit_scale is None:
        return f"not applicable: {model.card.id} has no logit scale"
    return None


def _check(model: Encoder, request: Request) -> None:
    if request.precision == "fast":
        raise UsageError(f"{model.card.id} reads numbers in full: leave precision (--precision) out")


def _resolve(model: Encoder, task: Task, dataset: Dataset, request: Request) -> ReadingSubject:
    data = run_data(dataset, request)
    if "reading" not in data.manifest.columns:
        raise DataError(f"{data.name} has no column `reading`: add it to the list of images")
    assert model.card.logit_scale is not None
    return ReadingSubject(
        model=model,
        task=task,
        data=data,
        readings=np.array([float(value) for value in data.manifest.columns["reading"]]),
        unit=model.card.logit_scale,
        annotations=annotations_of(dataset.card, task, request),
        resamples=request.resamples,
        seed=request.seed,
    )


KIND = Kind(
    name="readings",
    options=(),
    lacking="reads no numbers",
    not_applicable=_not_applicable,
    check=_check,
    resolve=_resolve,
)
