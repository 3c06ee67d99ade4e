"""The classes of a classifier's own head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.encoder import ModelCard
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.errors import DataError, UsageError
from clipjax.models.network import Network
from clipjax.models.outputs import count


def stated_classes(card: Card, labels: LabelSpace) -> Card:
    """The card with these classes, which no file of the classifier names.

    Raises:
        UsageError: not a classifier with a head, or its card names its classes.
        DataError: more or fewer classes than outputs.
    """
    if card.kind != "classifier" or not card.arch.num_classes:
        raise UsageError(f"{card.id} has no outputs for classes: leave classes out")
    if card.classes is not None:
        raise UsageError(f"{card.id} names its classes, {card.classes}: leave classes out")
    unknown = {name: why for name, why in card.unknown.items() if name != "classes"}
    card = dataclasses.replace(card.with_classes(labels), unknown=unknown)
    head_classes(card, Network(card.arch).abstract_params())
    return card


def head_classes(card: ModelCard, params: Mapping[str, Any]) -> LabelSpace:
    """Raises UsageError without a head or named classes, DataError for more or fewer classes than outputs."""
    if card.kind != "classifier":
        raise UsageError(f"{card.id} is not a classifier: build its head from prompts (zeroshot_head)")
    if "head" not in params:
        raise UsageError(f"{card.id} has features only, no classes: train a head on them, or probe them")
    if card.classes is None:
        raise UsageError(
            f"{card.id}: no file of it names its classes; `clipjax convert SRC --classes imagenet` writes a "
            "checkpoint that does (imagenet: the label space, or a CSV file)"
        )
    labels = card.label_space or load_labels(card.classes)
    outputs = count(params["head"])
    if outputs != len(labels):
        raise DataError(f"{card.id} has {outputs} outputs, but {card.classes!r} has {len(labels)} classes")
    return labels
