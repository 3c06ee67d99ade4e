"""The classes of a classifier's own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipjax.checkpoints.encoder import ModelCard
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.errors import DataError, UsageError
from clipjax.models.outputs import count


def head_classes(card: ModelCard, params: Mapping[str, Any]) -> LabelSpace:
    """The classes of a classifier's outputs.

    Raises:
        UsageError: not a classifier, no head, or its card does not name its classes.
        DataError: more or fewer classes than outputs.
    """
    if card.kind != "classifier":
        raise UsageError(f"{card.id} is not a classifier: build its head from prompts (zeroshot_head)")
    if "head" not in params:
        raise UsageError(f"{card.id} has features only, no classes: train a head on them, or probe them")
    if card.classes is None:
        raise UsageError(
            f"the card of {card.id} does not name its classes; give `classes` a file of configs/labels"
        )
    labels = card.label_space or load_labels(card.classes)
    outputs = count(params["head"])
    if outputs != len(labels):
        raise DataError(f"{card.id} has {outputs} outputs, but {card.classes!r} has {len(labels)} classes")
    return labels
