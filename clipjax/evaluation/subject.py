"""The resolved `Subject` of a run: model, task, data and head. Each kind of run has its own."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import LabelSpace, Projection
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.compute import Compute, EmbedStats
from clipjax.embeddings.placements import REPLICATED
from clipjax.errors import UsageError, counted
from clipjax.heads.adapters.base import Adapter, adapter_digest, adapter_of
from clipjax.models.precision import forward_fields
from clipjax.tasks.inputs import Inputs
from clipjax.tasks.task import Annotations, Task
from clipjax.tasks.task_names import package_of

SCALED = "JPEGs of four times the input size and more decoded smaller: not the reference's pixels"
# Every recipe has these keys, as their hashes include them: None where a kind of run has no such thing.
UNUSED = ("pixels", "labels", "projection", "id", "head_classes", "tokenizer", "prompts")


@dataclass(frozen=True, eq=False)
class RunData:
    """One data set of a run.

    Attributes:
        sample: {"limit", "seed", "of": the number before sampling}, and the unit of pairs; None: all images.
        variant: which member of a family of data sets it is, from the card.
        share: how its images differ in number from the card's, before sampling (`missing_of`); None: not.
        made: the corruption that clipjax applied to the images; None if it applied none.
        reader: the name of the card's reader.
        card_file: the file that contains the card; None: no file.
        folder: the end of the path of images that no card describes; None: the card does.
    """

    name: str
    manifest: Manifest
    sample: dict[str, Any] | None
    variant: Mapping[str, str | int]
    share: dict[str, Any] | None
    made: str | None
    reader: str | None
    card_file: Path | None
    folder: str | None

    def recipe(self) -> dict[str, Any]:
        """The data set in a run's recipe. Its name is part of that because it seeds the bootstrap."""
        return {"dataset": self.name, "images": self.manifest.digest}


@dataclass(frozen=True, eq=False)
class ImageData(RunData):
    """A data set of single images.

    Attributes:
        labels: int [N].
        projection: from the head's classes to these; None if they are the same.
    """

    labels: np.ndarray | None
    label_space: LabelSpace | None
    projection: Projection | None
    pixels: PixelRecipe

    def recipe(self) -> dict[str, Any]:
        return {
            **super().recipe(),
            "pixels": self.pixels.key(),
            "labels": self.label_space and self.label_space.digest,
            "projection": self.projection and self.projection.digest,
        }


class NotApplicableError(UsageError):
    """A model's own head has other classes than the data set, without a projection to them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject(ABC):
    """Everything that a run needs, resolved. A kind of run adds its own in a subclass.

    Attributes:
        data: the data set.
        annotations: of a task that reads some.
        remark: what the annotations were compared with.
    """

    model: Encoder
    task: Task
    data: RunData
    annotations: Annotations | None
    resamples: int
    seed: int
    remark: str | None = None

    @functools.cached_property
    def adapter(self) -> Adapter | None:
        """The model's adapter, if any."""
        return adapter_of(self.model)

    @abstractmethod
    def inputs(self, precision: str, compute: Compute) -> tuple[EmbedStats, Inputs]:
        """Run the model where nothing is stored, and return what the task reads.

        Raises DataError or UsageError as the functions of `clipjax.embeddings`.
        """

    @abstractmethod
    def entries(self, precision: str, placement: str) -> list[tuple[dict[str, Any], int]]:
        """For each data set, the key of the stored entry that `inputs` reads and the number of its images.

        Args:
            placement: where the params are on the devices.
        """

    @abstractmethod
    def own_recipe(self) -> dict[str, Any]:
        """The fields of the recipe that only this kind has; JSON."""

    @abstractmethod
    def own_convention(self) -> dict[str, Any]:
        """The fields of the convention that only this kind has; JSON."""

    @abstractmethod
    def amounts(self) -> list[str]:
        """The run's amounts in words: "50,000 images", "1,000 classes"."""

    @property
    def data_sets(self) -> tuple[RunData, ...]:
        """All data sets of the run, that of its rows first."""
        return (self.data,)

    @property
    def decoded(self) -> tuple[ImageData, ...]:
        """The data sets whose pixels a pixel store keeps."""
        return ()

    @property
    def embedded(self) -> tuple[ImageData, ...]:
        """The data sets whose images are embedded alone, so that those of several runs may share steps."""
        return ()

    @property
    def requests(self) -> int:
        """How many requests a server gets if nothing is stored; 0 where none runs the model."""
        return 0

    def with_model(self, model: Encoder) -> Self:
        """The subject with the loaded model in place of the one that was only opened."""
        return dataclasses.replace(self, model=model)

    def recipe(self, precision: str, skipped: tuple[str, ...], placement: str = REPLICATED) -> dict[str, Any]:
        """Everything that decides the numbers. `placement`: of the params on the devices."""
        card, adapter = self.model.card, self.adapter
        return {
            **dict.fromkeys(UNUSED),
            "task": self.task.name,
            "task_version": self.task.version,
            **package_of(self.task.name),
            "task_convention": dict(self.task.convention),
            "model": card.fingerprint or card.id,
            **forward_fields(precision),
            "logit_scale": card.logit_scale,
            "logit_bias": card.logit_bias,
            **self.data.recipe(),
            "skipped": list(skipped),
            "annotations": self.annotations and self.annotations.digest,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed},
            "precision": precision,
            **({} if placement == REPLICATED else {"params": placement}),
            **({} if adapter is None else {"adapter": adapter_digest(adapter)}),
            **({"normalize_features": True} if card.normalize_features else {}),
            **self.own_recipe(),
        }

    def convention(self) -> dict[str, Any]:
        """The facts, in words, in which two numbers must agree to compare."""
        words = {
            **self.task.convention,
            "label_space": None,
            "projection": None,
            "prompts": "not applicable: the task reads no text",
        }
        if self.data.variant:
            words["variant"] = dict(self.data.variant)
        if self.data.made is not None:
            words["made"] = self.data.made
        words |= self.own_convention()
        if name := getattr(self.annotations, "name", None):
            words["annotations"] = name
        if self.remark is not None:
            words["annotations_checked"] = self.remark
        return words

    def row_fields(self) -> dict[str, Any]:
        """Fields of result rows that only this kind has; after `inputs`."""
        return {}

    def in_words(self) -> str:
        """One line: the task, the model, the images, and where its answers come from."""
        return f"{self.task.name} of {self.model.card.id} on {self.data.name}: {', '.join(self.amounts())}"


def images_in_words(data: RunData) -> str:
    return counted(len(data.manifest), "image")
