"""From trained params to a model with a card that says where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.adapters import Adapter
from clipjax.card import Card
from clipjax.finetune.method import Outcome, Setup
from clipjax.finetune.trees import Params
from clipjax.labels import LabelSpace
from clipjax.model import Model


def tuned(setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None) -> Outcome:
    """A zero-shot model of other weights (FLYP, LoRA merged): the base's card, with its parentage.

    Args:
        params: the whole tree, float32, on the host.
        chosen: see `Outcome`.
    """
    card = dataclasses.replace(setup.model.card, lineage=lineage(setup, chosen or {}))
    model = Model(card, setup.model.params, tokenizer_files=setup.model.tokenizer_files)
    model.params = params
    return Outcome(model, chosen or {})


def classifier(setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None) -> Outcome:
    """An image tower with a linear head over the training classes (cross-entropy, linear probes).

    Args:
        params: {"vision": ..., "head": {"kernel" [D,K], "bias" [K]}}; a CLIP's head reads features of unit
            norm, a classifier's as they are.
    """
    card = classifier_card(setup.model.card, setup.train.label_space)
    card = dataclasses.replace(card, lineage=lineage(setup, chosen or {}))
    return Outcome(Model(card, params), chosen or {})


def classifier_card(base: Card, labels: LabelSpace) -> Card:
    """The card of the base's image tower with a linear head over `labels`."""
    return dataclasses.replace(
        base,
        arch=dataclasses.replace(base.arch, text=None, logit_bias=False, num_classes=len(labels)),
        tokenizer=None,
        logit_scale=None,
        logit_bias=None,
        classes=labels.name,
        normalize_features=base.normalize_features or base.kind == "zero_shot",
    )


def adapted(setup: Setup, adapter: Adapter, chosen: Mapping[str, Any] | None = None) -> Outcome:
    """The base model as it is, with an adapter (CoOp, Tip-Adapter)."""
    base = setup.model
    card = dataclasses.replace(base.card, lineage=lineage(setup, chosen or {}))
    model = Model(card, base.params, base.origin, base.carried, tokenizer_files=base.tokenizer_files)
    model.adapter = adapter
    return Outcome(model, chosen or {})


def lineage(setup: Setup, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """How a model was made: plain JSON for its card."""
    return {
        "method": setup.recipe.method,
        "base": setup.model.card.id,
        "recipe": setup.recipe.to_dict(),
        "seed": setup.seed,
        "train": {"dataset": setup.train.name, "images": len(setup.train)},
        "chosen": dict(chosen),
    }
