"""Splits as types: training, validation and test images cannot be confused.

A search takes only a `ValidationSplit`: the published Tip-Adapter numbers were chosen on the test set
unnoticed (docs/how_to/finetuning.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from clipjax.data.cards import Dataset
from clipjax.data.labels import LabelSpace
from clipjax.data.manifest import Manifest
from clipjax.errors import DataError, UsageError, counted

# The share of test images allowed in the training data: published sets contain a few such copies.
COPIES = 0.001


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images; `labels` int32 [N] index `label_space`, `name` is the data set's."""

    name: str
    manifest: Manifest
    labels: np.ndarray
    label_space: LabelSpace

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Sequence[int] | np.ndarray, selection: str = "") -> Self:
        rows = np.asarray(rows)
        manifest = self.manifest.select(rows, selection)
        return dataclasses.replace(self, manifest=manifest, labels=self.labels[rows])

    def sample(self, limit: int, seed: int = 0) -> Self:
        """A random sample regardless of class; all images if `limit` is larger."""
        manifest = self.manifest.sample(limit, seed)
        row = {name: i for i, name in enumerate(self.manifest.ids)}
        labels = self.labels[[row[name] for name in manifest.ids]]
        return dataclasses.replace(self, manifest=manifest, labels=labels)


class TrainSplit(Split):
    """Images to train on."""


class ValidationSplit(Split):
    """Images to choose by, never to report on."""


class TestSplit(Split):
    """Images of reported results."""

    __test__ = False  # not a test class of pytest


def train_split(dataset: Dataset) -> TrainSplit:
    """A data set to train on.

    Raises:
        UsageError: a card for another purpose (plain folders may train) or that changes pixels.
        DataError: no labels, or a class without images.
    """
    _for_development(dataset, ("train",), "training data")
    split = TrainSplit(dataset.card.name, *_labelled(dataset))
    counts = class_counts(split)
    if empty := [split.label_space.ids[k] for k in np.flatnonzero(counts == 0)]:
        more = "" if len(empty) == 1 else f" (and {len(empty) - 1} more classes)"
        raise DataError(f"{split.name}: the class {empty[0]!r}{more} has no images to train on")
    return split


def validation_split_of(dataset: Dataset, train: TrainSplit | None = None) -> ValidationSplit:
    """A data set to choose by, with the classes of `train`.

    Raises:
        UsageError: a card for another purpose (plain folders may be) or that changes pixels.
        DataError: no labels, or other classes.
    """
    _for_development(dataset, ("train", "validation"), "a validation split")
    split = ValidationSplit(dataset.card.name, *_labelled(dataset))
    if train is not None and split.label_space.ids != train.label_space.ids:
        theirs, ours = set(split.label_space.ids), set(train.label_space.ids)
        differ = sorted(theirs ^ ours)
        which = f"{differ[0]!r} is in one of them alone" if differ else "they stand in another order"
        raise DataError(
            f"the validation split {split.name} and the training split {train.name} have different classes: "
            f"{which}"
        )
    return split


def test_split_of(dataset: Dataset) -> TestSplit:
    """A data set whose numbers are reported. Raises DataError if it has no labels."""
    return TestSplit(dataset.card.name, *_labelled(dataset))


test_split_of.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest


def class_counts(split: Split) -> np.ndarray:
    """int [K], images of each class."""
    return np.bincount(split.labels, minlength=len(split.label_space))


def refuse_overlap(split: Split, test: Manifest | Split) -> list[str]:
    """Refuse a split that shares images (equal bytes, under any name) with another.

    A validation split may share none, a training split `COPIES` of the test images, whose ids are returned.
    Raises DataError, naming one image.
    """
    manifest, kind = (test, "test") if isinstance(test, Manifest) else (test.manifest, _kind(test))
    digests = set(split.manifest.opener.content_digests())
    contents = manifest.opener.content_digests()
    shared = [name for name, content in zip(manifest.ids, contents) if content in digests]
    allowed = COPIES * len(manifest) if isinstance(split, TrainSplit) else 0
    if len(shared) > allowed:
        some = shared[0] if len(shared) == 1 else f"{shared[0]}, ..."
        raise DataError(
            f"the {_kind(split)} split {split.name} holds {counted(len(shared), 'image')} of the {kind} "
            f"split {manifest.name} ({some}): take them out of one of the two"
        )
    return shared


def _kind(split: Split) -> str:
    names = {TrainSplit: "training", ValidationSplit: "validation", TestSplit: "test"}
    return names[type(split)]


def _for_development(dataset: Dataset, allowed: tuple[str, ...], what: str) -> None:
    card = dataset.card
    if card.name != "folder" and card.split not in allowed:
        reason = (
            "results are reported on it" if card.split is None else f"its card says split = {card.split!r}"
        )
        either = " or ".join(f'split = "{each}"' for each in allowed)
        raise UsageError(
            f"the data set {card.name} cannot be {what}: {reason} (a card of images that may be has {either})"
        )
    if card.pixels:
        raise UsageError(
            f"the data set {card.name} cannot be {what}: its card changes pixels "
            f"({', '.join(card.pixels)}), which training does not"
        )


def _labelled(dataset: Dataset) -> tuple[Manifest, np.ndarray, LabelSpace]:
    manifest, space = dataset.manifest, dataset.label_space
    if manifest.labels is None or space is None:
        missing = "labels" if manifest.labels is None else "class names"
        raise DataError(f"the data set {dataset.card.name} has no {missing}; fine-tuning needs them")
    return manifest, manifest.labels, space
