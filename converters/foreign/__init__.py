"""What the configuration beside foreign weights says: an architecture record and the fields of a model card.

Formats are told apart by their fields, one file each:

    open_clip.py       open_clip_config.json
    transformers.py    config.json of a CLIPModel or SiglipModel, with its preprocessor_config.json
    timm.py            config.json
    templates.py       towers of a known kind with sizes of their own
    card.py            strict reading, and the card that they all fill

The architecture is the one of configs/archs where the library's own name or config says so. Otherwise it is
derived, and then a field that changes what a network computes is either understood or refused by name; a
number that is not there is refused too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.storage.reading import exists, read_json
from converters.foreign import open_clip, timm, transformers


def read_foreign_card(folder: Path) -> dict[str, Any] | None:
    """The card record (`clipjax.checkpoints.card.card_from_dict`) that the configuration in `folder`
    describes.

    Returns: None when there is no configuration.

    Raises:
        DataError: a configuration of an unknown kind, with an unknown field, that contradicts itself, or that
            leaves open a number that changes the result.
    """
    own, config = folder / "open_clip_config.json", folder / "config.json"
    if exists(own):
        return open_clip.read(read_json(own), str(own), folder.name)
    if not exists(config):
        return None
    record = read_json(config)
    if "model_cfg" in record:
        return open_clip.read(record, str(config), folder.name)
    if record.get("model_type") in list(transformers.MODELS):
        return transformers.read(record, str(config), folder)
    if "architecture" in record and "pretrained_cfg" in record:
        return timm.read(record, str(config), folder.name)
    known = "neither open_clip's, nor a CLIPModel's or SiglipModel's, nor timm's"
    raise DataError(f"{config} is {known}; name a card instead")
