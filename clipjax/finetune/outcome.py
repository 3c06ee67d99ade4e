"""From trained params to a model with a card that says where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.adapters import Adapter
from clipjax.card import Card
from clipjax.checkpoint import Origin
from clipjax.finetune.method import Outcome, Setup, all_methods
from clipjax.finetune.shots import read_shots
from clipjax.finetune.splits import Split
from clipjax.finetune.trees import Params
from clipjax.labels import LabelSpace
from clipjax.model import Model

SHOTS = "shots.json"


def tuned(
    setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Outcome:
    """A model like the base, of other weights (FLYP, LoRA merged).

    Args:
        params: the whole tree, float32, on the host.
        chosen: see `Outcome`.
        name: the id of the model's card; by default the base's and the method's.
    """
    base = setup.model
    card = _child(base.card, setup, chosen, name)
    model = Model(card, base.params, Origin(base.origin.layout), base.carried)
    model.tokenizer_files = base.tokenizer_files
    model.params = params
    return Outcome(model, chosen or {})


def classifier(
    setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Outcome:
    """An image tower with a linear head over the training classes (cross-entropy, linear probes).

    Args:
        params: {"vision": ..., "head": {"kernel" [D,K], "bias" [K]}}; a CLIP's head reads features of unit
            norm, a classifier's as they are.
        chosen, name: as of `tuned`.
    """
    base = setup.model
    card = _child(classifier_card(base.card, setup.train.label_space), setup, chosen, name)
    return Outcome(Model(card, params, Origin(base.origin.layout), base.carried), chosen or {})


def classifier_card(base: Card, labels: LabelSpace) -> Card:
    """The card of the base's image tower with a linear head over `labels`; it has no weights yet."""
    card = dataclasses.replace(
        base.without_weights(),
        arch=dataclasses.replace(base.arch, text=None, logit_bias=False, num_classes=len(labels)),
        tokenizer=None,
        logit_scale=None,
        logit_bias=None,
        normalize_features=base.normalize_features or base.kind == "zero_shot",
    )
    return card.with_classes(labels)


def adapted(
    setup: Setup, adapter: Adapter, chosen: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Outcome:
    """The base model as it is, with an adapter (CoOp, Tip-Adapter); its embeddings are the base's.

    Args:
        chosen, name: as of `tuned`.
    """
    base = setup.model
    model = Model(
        _child(base.card, setup, chosen, name),
        base.params,
        base.origin,
        base.carried,
        weights=base.card.weights,
        tokenizer_files=base.tokenizer_files,
    )
    model.adapter, model.base, model.place = adapter, base.card, base.place
    return Outcome(model, chosen or {})


def also_chosen(outcome: Outcome, chosen: Mapping[str, Any]) -> Outcome:
    """The outcome with what a later search chose beside it, on its card too."""
    card = outcome.model.card
    known = dict(card.lineage or {})
    known["chosen"] = {**known.get("chosen", {}), **_plain(chosen)}
    outcome.model.card = dataclasses.replace(card, lineage=known)
    return Outcome(outcome.model, {**outcome.chosen, **chosen})


def lineage(setup: Setup, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was made: plain JSON for its card.

    base_sha256 is of the weights that the run began with, None where they were no file; base_lineage how
    these were made, where we made them. `train.digest` covers the ids, contents and labels of the images
    trained on (shots, if there are some).
    """
    base, recipe = setup.model.card, setup.recipe
    found = {
        "method": recipe.method,
        "base": base.id,
        "base_sha256": None if base.weights is None else base.weights.identity,
        "recipe": recipe.to_dict(),
        "recipe_digest": recipe.digest,
        "options": setup.options,
        "seed": setup.seed,
        "train": {**_images(setup.train), "shots": _shots(setup)},
        "validation": None if setup.validation is None else _images(setup.validation),
        "chosen": chosen,
    }
    return _plain(found if base.lineage is None else {**found, "base_lineage": base.lineage})


def _child(base: Card, setup: Setup, chosen: Mapping[str, Any] | None, name: str | None) -> Card:
    """A card with the parentage of the model that this run makes."""
    parent, method = setup.model.card, all_methods().get(setup.recipe.method)
    title = setup.recipe.method if method is None else method.title
    return dataclasses.replace(
        base,
        id=name or f"{parent.id}-{setup.recipe.method}",
        facts={**base.facts, "fine_tune": title, "parent": parent.id},
        lineage=lineage(setup, chosen or {}),
    )


def _images(split: Split) -> dict[str, Any]:
    return {
        "dataset": split.name,
        "images": len(split),
        "selection": split.manifest.selection,
        "digest": split.manifest.digest,
        "classes": split.label_space.name,
    }


def _shots(setup: Setup) -> dict[str, Any] | None:
    """The list of shots that the run keeps: in its folder, or above the folder of one learning rate."""
    folder = setup.settings.folder
    for place in () if folder is None else (folder, folder.parent):
        if (place / SHOTS).is_file():
            shots = read_shots(place / SHOTS)
            return {"per_class": shots.per_class, "seed": shots.seed, "sha256": shots.sha256}
    return None


def _plain(value: Any) -> Any:
    """The value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
