"""Linear probe: a linear head on frozen features, computed once and unaugmented.

Source: wise-ft (`src/models/finetune.py` with --freeze-encoder).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jax import Array

from clipjax.checkpoints.encoder import embeds_at_unit_norm
from clipjax.errors import UsageError
from clipjax.finetune import outcome
from clipjax.finetune.data.batches import feature_batches, split_features
from clipjax.finetune.data.splits import Split, ValidationSplit
from clipjax.finetune.linear_head import head_accuracy, initial_head
from clipjax.finetune.method import Method, Outcome, Outline, Problem, Setup, abstract_head, feature_batch
from clipjax.finetune.training import losses
from clipjax.finetune.training.step import Aux
from clipjax.finetune.training.trees import Params


def prepare(setup: Setup) -> Problem:
    """The head's problem: params {"head": {"kernel" [D,K], "bias" [K]}}.

    Raises:
        UsageError: augmentation, or an unknown init.
    """
    if setup.recipe.augmentation is not None:
        raise UsageError(
            f"recipe {setup.recipe.name}: {setup.recipe.method} computes features once, without "
            "augmentation; leave [augmentation] out"
        )
    return probe(setup)


def probe(setup: Setup) -> Problem:
    """Like `prepare`, but without augmentation: the first phase of another method."""
    normalize = embeds_at_unit_norm(setup.model.card)

    @functools.cache
    def features(split: Split) -> np.ndarray:
        return split_features(setup, split)

    def finish(params: Params) -> Outcome:
        whole = {"vision": setup.model.params["vision"], "head": params["head"]}
        return outcome.classifier(setup, whole)

    def accuracy(params: Params, split: ValidationSplit) -> float:
        return head_accuracy(params["head"], features(split), split, normalize=normalize)

    return Problem(
        params={"head": initial_head(setup)},
        trained=lambda path: True,
        loss=HeadLoss(normalize, setup.options["label_smoothing"]),
        batches=lambda: feature_batches(setup, features(setup.train)),
        steps=setup.steps,
        finish=finish,
        accuracy=accuracy,
    )


def outline(setup: Setup) -> Outline:
    loss = HeadLoss(embeds_at_unit_norm(setup.model.card), setup.options["label_smoothing"])
    return Outline({"head": abstract_head(setup)}, lambda path: True, loss, feature_batch(setup))


@dataclass(frozen=True)
class HeadLoss:
    """Cross-entropy on {"features": float32 [B,D], "label": int32 [B]}; `unit_norm`: of the features."""

    unit_norm: bool
    label_smoothing: float

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        logits = losses.head_logits(params["head"], batch["features"], normalize=self.unit_norm)
        value = losses.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)
        return value, Aux({"accuracy": losses.accuracy(logits, batch["label"])}, {})


METHOD = Method(
    name="linear_probe",
    title="Linear probe",
    paper="Wortsman et al. 2022 (arXiv 2109.01903), `--freeze-encoder`",
    options={"init": "auto", "label_smoothing": 0.0},
    prepare=prepare,
    outline=outline,
)
