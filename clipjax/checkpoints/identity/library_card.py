"""The card of bare weights by their library's name of the architecture: open_clip:ViT-S-32, timm:resnet18.

Bare weights do not say how images are prepared. So the card has what the library takes for the bare name, and
says so in `unknown`; it has no facts. A head of timm has the outputs that the file has.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from clipjax.checkpoints.card import Card, card_from_dict
from clipjax.checkpoints.identity.library_names import library_and_name
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.storage.formats.tensors import Source
from converters.foreign import open_clip, open_clip_towers, timm, timm_options
from converters.nearest import outputs_of

_LOG = logging.getLogger(__name__)


def _of_open_clip(name: str, where: str) -> dict[str, Any]:
    return open_clip.read({"model_cfg": open_clip_towers.configs()[name]}, where, name)


def _of_timm(name: str, where: str) -> dict[str, Any]:
    """The card of timm's architecture without a head: the weights show whether they have one."""
    pixels = timm_options.default_pixels(name)
    return timm.read({"architecture": name, "num_classes": 0, "pretrained_cfg": pixels}, where, name)


_RECORDS: dict[str, Callable[[str, str], dict[str, Any]]] = {"open_clip": _of_open_clip, "timm": _of_timm}


def library_card(text: str) -> Card:
    """The card that open_clip:ViT-S-32 names. Its id is that text.

    Raises:
        UsageError: an unknown library or architecture, with near ones.
        DataError: the first field of the architecture that clipjax does not have.
    """
    library, name = library_and_name(text)
    record = _RECORDS[library](name, text)
    record["unknown"]["facts"] = f"{text} names an architecture, not weights"
    if record["arch"].get("text") is None:
        record["unknown"]["classes"] = "bare weights do not name their classes"
    card = card_from_dict(record | {"id": text, "source": {**record["source"], "arch": name}}, text)
    said = f"not stated by the weights: the default of {library} for {name}{_otherwise(card)}"
    return dataclasses.replace(card, unknown={**card.unknown, "preprocess": said})


def _otherwise(card: Card) -> str:
    """End of a refusal: registered models of the architecture, if all prepare images in another way."""
    rows = [row["id"] for row in registry().values() if row["arch"] == card.arch.name]
    if not rows or any(model_card(row).preprocess == card.preprocess for row in rows):
        return ""
    return f", but {' and '.join(rows[:2])} {'have' if rows[1:] else 'has'} another"


def fitted(card: Card, source: Source) -> Card:
    """The card with the outputs that the file has; warns that nothing in it states the preprocessing.

    Raises DataError for tensors in no known layout.
    """
    _LOG.warning("%s: the preprocessing is %s", source.files[0], card.unknown["preprocess"])
    if card.kind != "classifier" or (outputs := outputs_of(source)) is None:
        return card
    return dataclasses.replace(card, arch=dataclasses.replace(card.arch, num_classes=outputs))
