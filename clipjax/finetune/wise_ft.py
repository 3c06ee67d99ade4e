"""WiSE-FT: weights between the pretrained and the fine-tuned model.

theta(alpha) = (1 - alpha) theta_zeroshot + alpha theta_finetuned for every leaf, also BatchNorm's statistics.

Source: Wortsman et al. 2022 (arXiv 2109.01903), wise-ft (`src/wise_ft.py`), without its Fisher-weighted
variant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from clipjax.checkpoints.card import Card
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.origin import Origin
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.images import embed_images
from clipjax.errors import UsageError
from clipjax.finetune.data.splits import Split
from clipjax.finetune.linear_head import accuracy_on, zeroshot_params
from clipjax.finetune.outcome import classifier_card
from clipjax.finetune.search import SearchResult, choose
from clipjax.finetune.training.trees import flatten
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.heads.head import Head
from clipjax.storage.store import Store

ALPHAS = tuple(i / 10 for i in range(11))


def zero_shot_classifier(
    base: Model,
    labels: LabelSpace,
    prompts: PromptSet,
    *,
    precision: str = "parity",
    store: Store | None = None,
    progress: bool = False,
) -> Model:
    """Image tower and zero-shot head, with the scale in the kernel; logits stay bit-equal.

    Raises:
        UsageError: the base is already a classifier.
        DataError: a class without prompts.
    """
    head = zeroshot_head(base, labels, prompts, precision=precision, store=store, progress=progress)
    lineage = {"method": "zeroshot", **_weights_of(base.card), "prompts": prompts.name}
    card = dataclasses.replace(classifier_card(base.card, labels), lineage=lineage)
    params = {"vision": base.params["vision"], "head": zeroshot_params(head)}
    return Model(card, params, Origin(base.origin.layout), base.carried)


def interpolate(base: Model, tuned: Model, alpha: float) -> Model:
    """The model with weights (1 - alpha) base + alpha tuned; its lineage records the mixture.

    Args:
        base: its `zero_shot_classifier` if `tuned` is a classifier made from a CLIP.
        alpha: from 0 to 1; 0 and 1 return the endpoint's own arrays.

    Raises:
        UsageError: alpha outside 0..1, or models that do not belong together.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha:g}: give a number from 0 (the base) to 1 (the fine-tuned model)")
    _check_pair(base, tuned)
    end = base if alpha == 0 else tuned
    model = end.with_card(_card(end.card, base.card, tuned.card, float(alpha))).with_location(None)
    if alpha in (0, 1):
        return model
    return model.with_params(jax.tree.map(lambda x, y: _between(x, y, alpha), base.params, tuned.params))


def sweep(base: Model, tuned: Model, alphas: Sequence[float] = ALPHAS) -> Iterator[Model]:
    """The model of each alpha in turn; errors as `interpolate`."""
    return (interpolate(base, tuned, alpha) for alpha in alphas)


def choose_alpha(
    base: Model,
    tuned: Model,
    split: Split | None,
    *,
    prompts: PromptSet | None = None,
    alphas: Sequence[float] = ALPHAS,
    precision: str = "parity",
    compute: Compute | None = None,
) -> SearchResult:
    """The most accurate alpha on a validation split; the first of ties.

    Args:
        prompts: for zero-shot heads.
        compute: its pixel store keeps pixels between alphas.

    Raises:
        UsageError: no validation split, no prompts for zero-shot models, other classes, or as `interpolate`.
        DataError: an unreadable image.
    """

    how = Compute(progress=False) if compute is None else compute

    def accuracy(alpha: float, held_out: Split) -> float:
        model = interpolate(base, tuned, alpha)
        head = _head(model, held_out.label_space, prompts, precision)
        embeddings = embed_images(model, held_out.manifest, how, precision=precision)
        return accuracy_on(head, embeddings.array, held_out)

    return choose(tuple(alphas), accuracy, split, "alpha")


def _head(model: Model, labels: LabelSpace, prompts: PromptSet | None, precision: str) -> Head:
    if model.card.kind == "zero_shot":
        if prompts is None:
            raise UsageError(f"{model.card.id} is a zero-shot model: name the prompts of its head")
        return zeroshot_head(model, labels, prompts, precision=precision)
    head = classifier_head(model)
    if head.label_space.ids != labels.ids:
        raise UsageError(
            f"{model.card.id} has the classes of {head.label_space.name}, the split those of {labels.name}"
        )
    return head


def _card(end: Card, base: Card, tuned: Card, alpha: float) -> Card:
    how = f"WiSE-FT, alpha {alpha:g}"
    lineage = {"method": "wise_ft", **_weights_of(base), "alpha": alpha, "tuned": tuned.lineage}
    facts = {**tuned.facts, "fine_tune": f"{tuned.facts.get('fine_tune', tuned.id)}, {how}"}
    origin = {"facts_origin": tuned.facts_origin, "facts_of": tuned.facts_of}
    return dataclasses.replace(end, id=f"{tuned.id}-alpha{alpha:g}", facts=facts, lineage=lineage, **origin)


def _weights_of(card: Card) -> dict[str, Any]:
    """The base's pretrained weights, with the keys of `outcome.lineage`."""
    if card.lineage is not None and card.lineage.get("method") == "zeroshot":
        return {key: card.lineage[key] for key in ("base", "base_sha256")}
    return {"base": card.id, "base_sha256": None if card.weights is None else card.weights.identity}


def _between(base: Any, tuned: Any, alpha: float) -> np.ndarray:
    x, y = np.asarray(base), np.asarray(tuned)
    # Equal numbers stay bit-equal: their two rounded products may not add up to them.
    return np.where(x == y, x, np.float32(1 - alpha) * x + np.float32(alpha) * y)


def _check_pair(base: Model, tuned: Model) -> None:
    one, other = base.card, tuned.card
    pair = f"{one.id} and {other.id} cannot be interpolated"
    if adapted := [model.card.id for model in (base, tuned) if model.adapter is not None]:
        raise UsageError(f"{pair}: {adapted[0]} has an adapter, and its weights are its base's")
    if one.kind == "zero_shot" and other.kind == "classifier":
        raise UsageError(f"{pair}: the second is a classifier; give the first one's zero_shot_classifier")
    if one.kind != other.kind:
        raise UsageError(f"{pair}: the first is a {one.kind} model, the second a {other.kind} one")
    _check_lineage(pair, one, other)
    if "head" in base.params and "head" in tuned.params:
        spaces = [classifier_head(model).label_space for model in (base, tuned)]
        if spaces[0].ids != spaces[1].ids:
            raise UsageError(
                f"{pair}: one has the classes of {spaces[0].name}, one those of {spaces[1].name}"
            )
    if one.arch != other.arch:
        raise UsageError(f"{pair}: their architectures, {one.arch.name} and {other.arch.name}, differ")
    if one.preprocess != other.preprocess or one.normalize_features != other.normalize_features:
        raise UsageError(f"{pair}: they do not read pixels or features in the same way; see their cards")
    if odd := flatten(base.params).keys() ^ flatten(tuned.params).keys():
        raise UsageError(f"{pair}: only one of them has {min(odd)}")


def _check_lineage(pair: str, one: Card, other: Card) -> None:
    """Refuse a pair whose second model was not fine-tuned from the first, as far as their cards tell."""
    lineage = one.lineage or {}
    # The lineage of a zero-shot classifier names the model that it was made from.
    if lineage.get("base") == other.id and lineage.get("method") != "zeroshot":
        raise UsageError(f"{pair}: the first was fine-tuned from the second; swap them")
    if one.weights is not None and other.weights is not None and one.fingerprint == other.fingerprint:
        raise UsageError(f"{pair}: they are the same model")
    known, own = other.lineage or {}, _weights_of(one)
    theirs = known.get("base_sha256")
    same = theirs is not None and theirs == own["base_sha256"]  # the same weights under another name
    if known.get("base") not in (None, own["base"]) and not same:
        raise UsageError(f"{pair}: the second was fine-tuned from {known['base']}")
    if theirs and own["base_sha256"] not in (None, theirs):
        raise UsageError(f"{pair}: the second was fine-tuned from other weights of {own['base']}")
