"""The classes of a classifier's own head."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.checkpoints.card import LABELS, Card
from clipjax.checkpoints.encoder import ModelCard
from clipjax.checkpoints.identity.facts import REGISTRY
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.errors import DataError, UsageError
from clipjax.models.outputs import count

_LOG = logging.getLogger(__name__)


def stated_classes(
    card: Card, labels: LabelSpace, classes: str | Path, source: str | Path, known_by: str | None
) -> Card:
    """The card with these classes, which no file of the classifier names.

    Args:
        classes: the name or path of the classes that the user gave, for errors.
        source: the name or path of the classifier that the user gave, for errors.
        known_by: where the card's classes come from, if not from the files of `source`.

    Raises:
        UsageError: not a classifier with a head, or its card names its classes.
        DataError: more or fewer classes than outputs.
    """
    if card.kind != "classifier" or not card.arch.num_classes:
        raise UsageError(f"{source} has no outputs for classes: leave classes (--classes) out")
    if card.classes is not None:
        known = card.classes if card.label_space is None else "a list of its own"
        raise UsageError(
            f"the classes of {source} are known, {known}, from {known_by or _origin(card)}: leave classes "
            "(--classes) out"
        )
    if card.arch.num_classes != len(labels):
        raise DataError(
            f"{source} has {card.arch.num_classes} outputs, but {classes} has {len(labels)} classes"
        )
    named = card.with_classes(labels)
    twice = [name for name, lines in collections.Counter(labels.classes).items() if lines > 1]
    if named.label_space is not None and twice:
        _LOG.warning("%s gives several classes the name %r; their ids tell them apart", classes, twice[0])
    return named


def _origin(card: Card) -> str:
    """The file and key, in words, that the classes of foreign weights come from."""
    tagged = (card.source.arch, card.source.tag)
    if card.facts_origin == REGISTRY:
        return f"the row {card.facts_of} of configs/models.csv"
    if card.classes != LABELS and tagged in {
        (row["library_arch"], row["tag"]) for row in registry().values()
    }:
        return f"the tag {card.source.tag} in its config.json"
    return "the label_names in its config.json"


def head_classes(card: ModelCard, params: Mapping[str, Any]) -> LabelSpace:
    """Raises UsageError without a head or named classes, DataError for more or fewer classes than outputs."""
    if card.kind != "classifier":
        raise UsageError(f"{card.id} is not a classifier: build its head from prompts (zeroshot_head)")
    if "head" not in params:
        raise UsageError(f"{card.id} has features only, no classes: train a head on them, or probe them")
    if card.classes is None:
        why = card.unknown.get("classes", "no file of it names its classes")
        raise UsageError(
            f"{card.id} does not name its outputs ({why}): `clipjax convert SRC --classes imagenet` "
            "writes a checkpoint that does (imagenet: the label space, or a CSV file)"
        )
    labels = card.label_space or load_labels(card.classes)
    outputs = count(params["head"])
    if outputs != len(labels):
        raise DataError(f"{card.id} has {outputs} outputs, but {card.classes!r} has {len(labels)} classes")
    return labels
