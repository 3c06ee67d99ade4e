"""Cross-entropy end to end: the image tower and a linear head.

Source: wise-ft (`src/models/finetune.py`, `modeling.py`). Label smoothing is the only option taken
from FT-CLIP (arXiv 2212.06138).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jax import Array

from clipjax.checkpoints.encoder import embeds_at_unit_norm
from clipjax.checkpoints.model import Model
from clipjax.data.pixels.normalize import normalize
from clipjax.devices.platforms import platform_of
from clipjax.finetune import outcome
from clipjax.finetune.data.batches import image_batches, split_features
from clipjax.finetune.data.splits import ValidationSplit
from clipjax.finetune.linear_head import head_accuracy, initial_head
from clipjax.finetune.method import Method, Outline, Problem, Setup, abstract_head, image_batch
from clipjax.finetune.training import losses
from clipjax.finetune.training.step import Aux, Loss
from clipjax.finetune.training.trees import Params
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.training import Training


def prepare(setup: Setup) -> Problem:
    """The method's problem; errors as `initial_head`."""
    return end_to_end(setup, initial_head(setup))


def end_to_end(setup: Setup, head: Params) -> Problem:
    """Train all of {"vision": ..., "head": {"kernel" [D,K], "bias" [K]}}, starting with this head."""
    model = setup.model

    def accuracy(params: Params, split: ValidationSplit) -> float:
        tuned = Model(outcome.classifier_card(model.card, setup.train.label_space), params)
        features = split_features(dataclasses.replace(setup, model=tuned), split)
        return head_accuracy(params["head"], features, split, normalize=tuned.card.normalize_features)

    return Problem(
        params={"vision": model.params["vision"], "head": head},
        trained=lambda path: True,
        loss=image_loss(setup),
        batches=lambda: image_batches(setup),
        steps=setup.steps,
        finish=lambda params: outcome.classifier(setup, params),
        accuracy=accuracy,
        compiler_options=model.network.compiler_options("vision", setup.recipe.precision),
    )


def outline(setup: Setup) -> Outline:
    params = {"vision": setup.model.params["vision"], "head": abstract_head(setup)}
    return Outline(params, lambda path: True, image_loss(setup), image_batch(setup))


@dataclass(frozen=True)
class ImageLoss:
    """Cross-entropy on {"pixels": uint8 [B,S,S,3], "label": int32 [B]}; `unit_norm`: of the features."""

    network: Network
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Precision
    training: Training
    platform: str
    unit_norm: bool
    label_smoothing: float

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        images = normalize(batch["pixels"], self.mean, self.std, self.platform)
        features, statistics = self.network.train_image(
            params, images, precision=self.precision, training=self.training, platform=self.platform
        )
        logits = losses.head_logits(params["head"], features, normalize=self.unit_norm)
        value = losses.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)
        return value, Aux({"accuracy": losses.accuracy(logits, batch["label"])}, statistics)


def image_loss(setup: Setup) -> Loss:
    card, recipe, mesh = setup.model.card, setup.recipe, setup.settings.mesh
    return ImageLoss(
        network=setup.model.network,
        mean=card.preprocess.mean,
        std=card.preprocess.std,
        precision=recipe.precision,
        training=Training(recipe.batch_norm, mesh.size, recipe.remat),
        platform=platform_of(mesh),
        unit_norm=embeds_at_unit_norm(card),
        label_smoothing=setup.options["label_smoothing"],
    )


METHOD = Method(
    name="cross_entropy",
    title="Cross-entropy",
    paper="Wortsman et al. 2022 (arXiv 2109.01903)",
    options={"init": "auto", "label_smoothing": 0.0},
    prepare=prepare,
    outline=outline,
)
