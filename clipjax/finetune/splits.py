"""Splits as types: training, validation and test images cannot be taken for each other.

A search (alpha, beta, learning rate, epoch) takes a `ValidationSplit` and nothing else: the published
Tip-Adapter numbers were chosen on the test set, and nobody could see it (docs/finetuning.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipjax.data.manifest import Manifest
from clipjax.labels import LabelSpace


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
        name: of the data set.
        manifest: the images.
        labels: int32 [N], indices into `label_space`.
        label_space: the classes.
    """

    name: str
    manifest: Manifest
    labels: np.ndarray
    label_space: LabelSpace

    def __len__(self) -> int:
        return len(self.labels)


class TrainSplit(Split):
    """Images to train on."""


class ValidationSplit(Split):
    """Images to choose by, of the training data or beside them; never those that a result is reported on."""


class TestSplit(Split):
    """Images that results are reported on: no search takes them."""

    __test__ = False  # not a test class of pytest
