"""The `config.json` of a Prismatic checkpoint: ids of an image tower and a language model, and a projector.

    FOLDER/config.json                          its part `model` is read
    FOLDER/checkpoints/latest-checkpoint.pt     projector and language model; no image tower

Source: TRI-ML/prismatic-vlms at 874c5bb, prismatic/models/load.py and materialize.py. What the ids mean is in
configs/prismatic.toml.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.models.arch import arch_to_dict, load_arch
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read as read_record
from converters.foreign.card import at, card_record, choose, get

# Their strategy -> our resize mode.
_RESIZE_MODES = {"letterbox": "letterbox", "resize-naive": "squash", "resize-crop": "shortest"}
# Ends of `arch_specifier`, the longer first. A training stage comes before them: "no-align+gelu-mlp".
_PROJECTORS = ("fused-gelu-mlp", "gelu-mlp", "linear")


@dataclass(frozen=True)
class PrismaticTower:
    """An image tower of Prismatic's; see configs/prismatic.toml."""

    arch: str
    model: str
    statistics: str


@dataclass(frozen=True)
class PrismaticLanguage:
    """A language model of Prismatic's; see configs/prismatic.toml."""

    arch: str
    template: str
    tokenizer: str
    decoder: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Backbones:
    vision: Mapping[str, PrismaticTower]
    language: Mapping[str, PrismaticLanguage]

    def of(self, name: str) -> tuple[PrismaticTower, PrismaticLanguage]:
        """The two parts of "VISION+LANGUAGE", a card's `source.arch`. Raises DataError for unknown ids."""
        vision, _, language = name.partition("+")
        if vision not in self.vision or language not in self.language:
            raise DataError(f"configs/prismatic.toml has no image tower and language model {name!r}")
        return self.vision[vision], self.language[language]


@functools.cache
def backbones() -> Backbones:
    path = config_dir() / "prismatic.toml"
    return read_record(Backbones, read_toml(path), path)


def is_prismatic(record: Mapping[str, Any]) -> bool:
    model = record.get("model")
    return isinstance(model, Mapping) and "llm_backbone_id" in model


def read(record: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    model, inside = get(record, "model", where, "object"), f"{where}: model"
    known = backbones()
    ids = [
        choose(model, key, inside, {each: each for each in table})
        for key, table in (("vision_backbone_id", known.vision), ("llm_backbone_id", known.language))
    ]
    tower, language = known.vision[ids[0]], known.language[ids[1]]
    arch = arch_record(tower, language)
    arch["language"]["projector"] = _projector(model, inside)
    size = arch["vision"]["image_size"]
    statistics = read_toml(config_dir() / "normalization.toml")[tower.statistics]
    preprocess = {
        "image_size": size,
        "resize_size": size,
        "resize_mode": choose(model, "image_resize_strategy", inside, _RESIZE_MODES),
        "crop": "round",
        "interpolation": "bicubic",
        **statistics,
    }
    return card_record(name, arch, where, {"library": "prismatic", "arch": "+".join(ids)}, preprocess)


def arch_record(tower: PrismaticTower, language: PrismaticLanguage) -> dict[str, Any]:
    """The record of an architecture, with the projector of the registered one."""
    record = arch_to_dict(load_arch(f"prism-{tower.arch}-{language.arch}"))
    record["language"]["decoder"] |= language.decoder
    return record


def _projector(model: Mapping[str, Any], where: str) -> str:
    specifier = get(model, "arch_specifier", where, "text")
    projector = next((name for name in _PROJECTORS if specifier.endswith(name)), None)
    if projector is None:
        raise DataError(
            f"{at(where, 'arch_specifier')} is {specifier[:80]!r}; clipjax knows projectors at its end: "
            f"{', '.join(_PROJECTORS)}"
        )
    return projector
