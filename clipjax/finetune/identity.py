"""The record of everything that decides a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.data.labels import load_prompts
from clipjax.evaluation.plans.ready import hash_images
from clipjax.finetune.data.splits import Split
from clipjax.finetune.method import Setup
from clipjax.finetune.method_names import METHODS


def identity(setup: Setup) -> dict[str, Any]:
    """Runs of equal identity give equal models (bit-equal on equal devices).

    Files count by content. The first call reads all training images.
    """
    base, recipe = setup.model.card, setup.recipe.to_dict()
    for label in ("name", "title", "seeds", "shots", "select", "learning_rates"):
        recipe.pop(label)
    recipe["options"] = dict(setup.options)
    plug_in = METHODS.plug_ins().get(setup.recipe.method)
    return plain(
        {
            "method": setup.recipe.method,
            **({} if plug_in is None else {"plug_in": plug_in.made_by}),
            "base": base.id,
            "base_sha256": None if base.weights is None else base.weights.identity,
            "recipe": recipe,
            "prompts": load_prompts(setup.recipe.prompts).digest,
            "classes": setup.train.label_space.digest,
            "train": {**_images(setup.train, setup), "shots": _shots(setup)},
            "validation": None if setup.validation is None else _images(setup.validation, setup),
            "seed": setup.seed,
        }
    )


def _images(split: Split, setup: Setup) -> dict[str, Any]:
    manifest = split.manifest
    digest = hash_images(manifest, setup.settings.progress)
    return {
        "dataset": split.name,
        "images": len(split),
        "selection": manifest.selection,
        "digest": digest,
        "classes": split.label_space.name,
    }


def _shots(setup: Setup) -> dict[str, Any] | None:
    shots = setup.shots
    if shots is None:
        return None
    return {"per_class": shots.per_class, "seed": shots.seed, "sha256": shots.sha256}


def plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
