"""Tip-Adapter-F: the keys of Tip-Adapter's cache, trained.

Source: run_tip_adapter_F in the `main_imagenet.py` that `clipjax.finetune.methods.tip_adapter` names.
Towers, prompts and values stay fixed. Training and the choice of an epoch use the options' alpha and beta;
`search` comes last, as in the reference.

Difference: the reference ends an epoch with a smaller batch; here batches continue into the next.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from clipjax.finetune.data.batches import feature_batches, image_batches, split_features
from clipjax.finetune.data.splits import ValidationSplit
from clipjax.finetune.frozen_tower import FrozenTower, frozen_tower
from clipjax.finetune.linear_head import accuracy_on
from clipjax.finetune.method import (
    Method,
    Outcome,
    Outline,
    Problem,
    Setup,
    abstract,
    abstract_head,
    feature_batch,
    image_batch,
)
from clipjax.finetune.methods.tip_adapter import (
    OPTIONS,
    build_keys,
    check,
    outcome_of,
    text_head,
    values_of,
)
from clipjax.finetune.training.losses import accuracy, cross_entropy, head_logits, unit_norm
from clipjax.finetune.training.step import Aux, Loss
from clipjax.finetune.training.trees import Params
from clipjax.heads.adapters.tip_adapter import with_cache
from clipjax.heads.head import Head
from clipjax.metrics.cache import affinities

KEYS = "cache/keys"


def prepare(setup: Setup) -> Problem:
    """The problem: params {"cache": {"keys" [D,N]}, "head": ..., "vision": ...}, only keys trained.

    Raises:
        UsageError, DataError: as Tip-Adapter's `prepare` and `build_keys`.
    """
    check(setup)
    cached = setup.recipe.augmentation is None
    head, values = text_head(setup), values_of(setup)
    features = functools.cache(functools.partial(split_features, setup))
    params = {"cache": {"keys": build_keys(setup)}, "head": _scaled(head)}
    options = setup.model.network.compiler_options("vision", setup.recipe.precision)
    if not cached:
        params["vision"] = setup.model.params["vision"]

    def finish(params: Params) -> Outcome:
        return outcome_of(setup, head, np.asarray(params["cache"]["keys"]), features, trained=True)

    def accuracy_of(params: Params, split: ValidationSplit) -> float:
        weights = setup.options["alpha"], setup.options["beta"]
        return accuracy_on(
            with_cache(head, params["cache"]["keys"], values, *weights), features(split), split
        )

    return Problem(
        params=params,
        trained=lambda path: path == KEYS,
        loss=tip_loss(setup, values),
        batches=lambda: feature_batches(setup, features(setup.train)) if cached else image_batches(setup),
        steps=setup.steps,
        finish=finish,
        accuracy=accuracy_of,
        compiler_options=None if cached else options,
    )


def outline(setup: Setup) -> Outline:
    """Errors as `check`."""
    check(setup)
    cached, head = setup.recipe.augmentation is None, abstract_head(setup)
    keys = abstract(head["kernel"].shape[0], len(setup.train))
    params = {"cache": {"keys": keys}, "head": head}
    params |= {} if cached else {"vision": setup.model.params["vision"]}
    batch = feature_batch(setup) if cached else image_batch(setup)
    return Outline(params, lambda path: path == KEYS, tip_loss(setup, values_of(setup)), batch)


def _scaled(head: Head) -> Params:
    kernel = {"kernel": np.float32(head.scale) * np.asarray(head.kernel)}
    return kernel if head.bias is None else {**kernel, "bias": np.asarray(head.bias)}


@dataclass(frozen=True)
class TipLoss:
    """Cross-entropy on {"features" float32 [B,D], "label" int32 [B]}.

    Attributes:
        tower: makes the features from "pixels" uint8 [B,S,S,3] if the recipe augments.
        values: the class of each key.
        classes: their number.
    """

    tower: FrozenTower
    values: tuple[int, ...]
    alpha: float
    beta: float
    classes: int

    def __call__(self, params: Params, batch: dict[str, Array], key: Any) -> tuple[Array, Aux]:
        features = jax.lax.stop_gradient(unit_norm(self.tower.features(params, batch)))
        keys, values = params["cache"]["keys"], np.asarray(self.values, np.int32)
        cache = affinities(features, keys, values, self.beta, num_classes=self.classes)
        logits = head_logits(params["head"], features, normalize=False) + np.float32(self.alpha) * cache
        value = cross_entropy(logits, batch["label"])
        return value, Aux({"accuracy": accuracy(logits, batch["label"])}, {})


def tip_loss(setup: Setup, values: np.ndarray) -> Loss:
    """The loss with keys of these classes, int32 [N]; of pixels where the recipe augments."""
    return TipLoss(
        tower=frozen_tower(setup),
        values=tuple(values.tolist()),
        alpha=setup.options["alpha"],
        beta=setup.options["beta"],
        classes=len(setup.train.label_space),
    )


METHOD = Method(
    name="tip_adapter_f",
    title="Tip-Adapter-F",
    paper="Zhang et al. 2022 (arXiv 2207.09519)",
    options=OPTIONS,
    prepare=prepare,
    outline=outline,
    searches=lambda options: options["search"],
)
