"""What a resume point of `clipjax finetune` records of its run, and the model that its params fit.

FLYP trains the leaves of the model that it begins from; cross_entropy and lp_ft the image tower and a head;
linear_probe a head alone. The other methods train an adapter or low-rank factors, not a model's params.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.origin import Origin
from clipjax.data.labels import load_labels
from clipjax.errors import DataError, UsageError
from clipjax.finetune.outcome import classifier_card
from clipjax.heads.build import classifier_head
from clipjax.models.outputs import one_layer

RECORD = Path("identity", "metadata")


@dataclass(frozen=True)
class TrainingRecord:
    """What decided a run of `clipjax finetune`, in the folder of its resume point.

    Attributes:
        base_sha256: of the weights that training began from; "": not known.
        classes: the name of the training images' label space.
        digest: of that label space.
    """

    method: str
    base: str
    base_sha256: str
    classes: str
    digest: str


def training_record(path: Path) -> TrainingRecord | None:
    """The record of a resume point; None for a checkpoint that another program wrote."""
    try:
        written = json.loads((path / RECORD).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(written, Mapping) or "method" not in written:
        return None
    names = ("method", "base", "base_sha256", "train.classes", "classes")
    return TrainingRecord(*(str(written.get(name, "")) for name in names))


def with_head(like: Model, record: TrainingRecord) -> Model:
    """A classifier of the training's classes with the image tower of `like`; its head is one layer.

    Raises DataError if neither `like` nor a label space of clipjax has these classes: a resume point does not
    contain their names.
    """
    if like.card.kind == "classifier" and classifier_head(like).label_space.digest == record.digest:
        return _classifier(like, like.card, one_layer(like.params["head"]))
    try:
        labels = load_labels(record.classes)
    except (DataError, UsageError):
        labels = None
    if labels is None or labels.digest != record.digest:
        raise DataError(
            f"{record.method} trained a head over {record.classes}, and no label space of clipjax has these "
            "classes: name a classifier of them with --like, such as the model of a seed that is done"
        )
    width = like.card.arch.vision.embed_dim
    head = {"kernel": np.zeros((width, len(labels)), np.float32), "bias": np.zeros(len(labels), np.float32)}
    return _classifier(like, classifier_card(like.card, labels), head)


def _classifier(like: Model, card: Card, head: Mapping[str, Any]) -> Model:
    params = {"vision": like.params["vision"], "head": head}
    return Model(card, params, Origin(like.origin.layout), like.carried)


def check_base(like: Model, record: TrainingRecord) -> None:
    """Refuse a model whose tower is not the one that the training left alone (DataError)."""
    lineage = like.card.lineage or {}
    towers = {like.card.weights and like.card.weights.identity}
    if lineage.get("method") == record.method:
        towers.add(lineage.get("base_sha256"))
    if record.base_sha256 not in towers:
        raise DataError(
            f"{record.method} trained the head alone, on the tower of {record.base}, and {like.card.id} has "
            f"other weights: name {record.base} with --like"
        )
