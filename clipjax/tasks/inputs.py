"""Inputs of tasks: one record for each kind of run, and the record that all extend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clipjax.data.labels import LabelSpace, Projection
from clipjax.data.pairs.matching import Matching
from clipjax.data.questions import Questions
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES

if TYPE_CHECKING:
    from clipjax.embeddings.answers import Answers
    from clipjax.heads.head import Head


@dataclass(frozen=True)
class About:
    """Inputs of `measure` beside the per-image columns.

    Attributes:
        dataset: seeds the resamples, which all scores and models share.
        label_space: None without classes.
        annotations: from the task's `load_annotations`.
    """

    dataset: str
    label_space: LabelSpace | None
    annotations: Any = None
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of every task; a kind of run adds its own in a subclass.

    Attributes:
        ids: [N], stable; of images or pairs.
        columns: what else the data set has on them, [N] each.
    """

    ids: Sequence[str]
    dataset: str = ""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    annotations: Any = None
    resamples: int = RESAMPLES
    seed: int = 0

    @property
    def about(self) -> About:
        return About(self.dataset, None, self.annotations, self.resamples, self.seed)


@dataclass(frozen=True, kw_only=True)
class LabelledInputs(Inputs):
    """Images that may have classes.

    Attributes:
        labels: int [N], indices into `label_space`.
    """

    labels: np.ndarray | None
    label_space: LabelSpace | None

    @property
    def about(self) -> About:
        return About(self.dataset, self.label_space, self.annotations, self.resamples, self.seed)


@dataclass(frozen=True)
class Captions:
    """Embedded captions.

    Attributes:
        features: float32 [M, D], unit norm.
        image_of_text: int [M], the row of each caption's image.
        cut: bool [M], whether a caption exceeded the model's context; None if unknown.
    """

    features: np.ndarray
    image_of_text: np.ndarray
    cut: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class ImageInputs(LabelledInputs):
    """Embedded images, as the task's `needs` say.

    Attributes:
        features: float32 [N, D], as stored.
        head: None if the task needs none.
        projection: from the head's label space to the data set's; None if they are the same.
        id: the in-distribution images ("id").
        fit: training images of the in-distribution classes; None: the user gave none.
        captions: "captions".
        questions: those about these images ("questions"); None: the task makes its own lists.
    """

    features: np.ndarray
    head: Head | None
    projection: Projection | None = None
    id: ImageInputs | None = None
    fit: ImageInputs | None = None
    captions: Captions | None = None
    questions: Questions | None = None


@dataclass(frozen=True, kw_only=True)
class PairInputs(Inputs):
    """Matched pairs of images.

    Attributes:
        numbers: float32 [N, K, m], those of each pair's matches.
        matching: the card's.
    """

    numbers: np.ndarray
    matching: Matching


@dataclass(frozen=True, kw_only=True)
class AnswerInputs(LabelledInputs):
    """A vision-language model's answers to the questions about the images."""

    questions: Questions
    answers: Answers
