"""The configuration beside foreign weights -> an architecture record and the fields of a model card.

An architecture that is not in configs/archs is derived: every field that changes the computation is
understood or refused by name, as is a missing number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.storage.reading import exists, read_json
from converters.foreign import llama, llava, open_clip, prismatic, timm, transformers


def read_foreign_card(folder: Path) -> dict[str, Any] | None:
    """The record for `card_from_dict`; None without a configuration in `folder`.

    Raises DataError for an unknown kind or field, a contradiction, or a missing number.
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
    if record.get("model_type") == llava.MODEL:
        return llava.read(record, str(config), folder)
    if prismatic.is_prismatic(record):
        return prismatic.read(record, str(config), folder.name)
    if "architecture" in record and "pretrained_cfg" in record:
        return timm.read(record, str(config), folder.name)
    if record.get("model_type") in list(llama.MODELS):
        raise DataError(f"{config} is a language model's: load it with clipjax.load_language_model")
    known = "neither open_clip's, nor a CLIPModel's, SiglipModel's or LLaVA's, nor Prismatic's or timm's"
    raise DataError(f"{config} is {known}; name a card instead")


def read_label_names(folder: Path) -> dict[str, str] | None:
    """{label: description} of a classifier's outputs, in their order, where the configuration names them all.

    Only timm's config.json has such names.
    """
    config = folder / "config.json"
    return timm.label_names(read_json(config)) if exists(config) else None
