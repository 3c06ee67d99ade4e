"""The training run and the architecture family that a model comes from.

    run_of("vit_b_32-laion400m_e31")                            # "vit_b_32-laion400m"
    run_of("vit_base_patch16_clip_384.openai_ft_in1k")          # "vit_b_16-openai", its parent
    family_of("vit_base_patch16_clip_384.openai_ft_in1k")       # "vit_b_16"

Models of one run are alike: its epochs, its image sizes, and what was fine-tuned from them. Intervals over
models draw runs, or families (configs/lineage.toml).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.config import config_dir
from clipjax.entry_points import cached
from clipjax.errors import DataError
from clipjax.guards import groups_in
from clipjax.storage.reading import read_toml
from clipjax.storage.records import read

Unit = Literal["run", "family", "model"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_PARENTS = " + "  # between the parents of an average of models, all of one run


@dataclass(frozen=True)
class _Names:
    """configs/lineage.toml, which defines the words.

    Raises:
        ValueError: a pattern is not a regular expression, or one of a family lacks a group.
    """

    measured: tuple[str, ...]
    same: tuple[str, ...]
    family: tuple[str, ...]

    def __post_init__(self) -> None:
        for key, patterns in vars(self).items():
            for pattern in patterns:
                if groups_in(pattern, f"{key}: ") < (key == "family"):
                    raise ValueError(f"{key}: {pattern!r} lacks a group, whose text is the family")


def unit_of(unit: str, model: str, facts: Mapping[str, Any] | None = None) -> str:
    """The model's unit of that kind, a name of `UNITS`; arguments as `run_of`."""
    if unit == "model":
        return model
    return run_of(model, facts) if unit == "run" else family_of(model, facts)


def run_of(model: str, facts: Mapping[str, Any] | None = None) -> str:
    """The name of the training run that the model comes from.

    A model without a parent, and whose name has nothing of `same`, is its own run.

    Args:
        model: id, or name of a published model.
        facts: `model_facts` of its rows; their `parent` counts before the registry's.
    """
    name, seen = _id(model), set()
    parent = (facts or {}).get("parent") or _registered_parent(name)
    while parent not in (None, "none") and name not in seen:
        seen.add(name)
        name = parent.split(_PARENTS)[0]
        parent = _registered_parent(name)
    for words in _names().same:
        name = re.sub(words, "", name)
    return name


def family_of(model: str, facts: Mapping[str, Any] | None = None) -> str:
    """The architecture family of the model's run; arguments as `run_of`.

    A run that is neither registered nor published is of the family of its architecture, if its facts have
    one, and otherwise a family of its own.

    Raises:
        DataError: a pattern of configs/lineage.toml matches without its group.
    """
    run = run_of(model, facts)
    name = run
    if run == model and ":" not in model and model not in registry():
        name = (facts or {}).get("arch") or ""
    for words in _names().family:
        if found := re.search(words, name.lower()):
            if not found[1]:
                raise DataError(
                    f"{_path()}: family: {words!r} matches {name!r} without its group 1, whose text is the "
                    "family: let the group match something in every match"
                )
            return found[1].replace("-", "_")
    return run


def _id(model: str) -> str:
    """The id without its source and image size, if that is a registered model or one of timm."""
    name = model
    for words in _names().measured:
        name = re.sub(words, "", name)
    return name


def _registered_parent(name: str) -> str | None:
    parent = registry().get(name, {}).get("parent")
    return None if parent is None or parent.startswith("?") else parent


@cached
def _names() -> _Names:
    return read(_Names, read_toml(_path()), _path())


def _path() -> Path:
    return config_dir() / "lineage.toml"
