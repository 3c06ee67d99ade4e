"""Make a model of trained params; its card records where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.origin import Origin
from clipjax.data.labels import LabelSpace
from clipjax.finetune.identity import identity, plain
from clipjax.finetune.method import Outcome, Setup, all_methods
from clipjax.finetune.training.trees import Params
from clipjax.heads.adapters.base import Adapter, parts_of
from clipjax.models.outputs import as_built


def tuned(
    setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Outcome:
    """The base with other weights: the whole tree, float32, on the host.

    `name` is the card's id; default: the base's and the method's.
    """
    base = _base(setup)
    card, origin = _child(base.card, setup, chosen, name), Origin(base.origin.layout)
    model = Model(card, base.params, origin, base.carried, tokenizer_files=base.tokenizer_files)
    return Outcome(model.with_params(params), chosen or {})


def classifier(
    setup: Setup, params: Params, chosen: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Outcome:
    """An image tower with a linear head over the training classes; `name` as in `tuned`.

    `params` are {"vision": ..., "head": {"kernel" [D,K], "bias" [K]}}; a CLIP's head reads unit-norm
    features.
    """
    base = setup.model
    card = _child(classifier_card(base.card, setup.train.label_space), setup, chosen, name)
    params = {**params, "head": as_built(card.arch, params["head"])}
    return Outcome(Model(card, params, Origin(base.origin.layout), base.carried), chosen or {})


def classifier_card(base: Card, labels: LabelSpace) -> Card:
    """The card of the base's image tower with a linear head, without weights."""
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
    """The base with an adapter; embeddings stay the base's."""
    base = _base(setup)
    card = _child(base.card, setup, chosen, name)
    return Outcome(base.with_adapter(parts_of(adapter), card), chosen or {})


def also_chosen(outcome: Outcome, chosen: Mapping[str, Any]) -> Outcome:
    """Add a later search's choices to outcome and card."""
    model = outcome.model
    known = dict(model.card.lineage or {})
    already = known.get("chosen", {})
    if twice := already.keys() & chosen.keys():
        raise ValueError(f"two searches have chosen {min(twice)!r}")
    known["chosen"] = {**already, **plain(chosen)}
    model = model.with_card(dataclasses.replace(model.card, lineage=known))
    return dataclasses.replace(outcome, model=model, chosen={**outcome.chosen, **chosen})


def lineage(setup: Setup, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The record of how a model was made, as plain JSON for its card.

    base_lineage is there if clipjax made the base; base_sha256 is None if its weights were not a file;
    `train.digest` covers ids, contents and labels.
    """
    record = {
        **identity(setup),
        "recipe": {**setup.recipe.to_dict(), "shots": setup.shots and setup.shots.per_class},
        "options": setup.options,
        "chosen": chosen,
    }
    base = setup.model.card
    return plain(record if base.lineage is None else {**record, "base_lineage": base.lineage})


def _base(setup: Setup) -> Model:
    model = setup.model
    # The card records the digest of the tokenizer files used in training.
    reads_text = model.card.kind == "zero_shot" and model.card.tokenizer is not None
    return model.with_tokenizer() if reads_text else model


def _child(base: Card, setup: Setup, chosen: Mapping[str, Any] | None, name: str | None) -> Card:
    parent, method = setup.model.card, all_methods().get(setup.recipe.method)
    title = setup.recipe.method if method is None else method.title
    return dataclasses.replace(
        base,
        id=name or f"{parent.id}-{setup.recipe.method}",
        facts={**base.facts, "fine_tune": title, "parent": parent.id},
        lineage=lineage(setup, chosen or {}),
    )
