"""Contrastive training from scratch, with CLIP's own objective.

Source: Radford et al. 2021 (arXiv 2103.00020), section 2.3 and figure 3; details as open_clip 3.3
(`loss.ClipLoss`, `open_clip_train/train.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.normalize import normalize
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.pixels.training_batches import training_batches
from clipjax.devices.platforms import platform_of
from clipjax.devices.sharding import DP, Rules, make_mesh
from clipjax.finetune.training.logs import Logs
from clipjax.finetune.training.loop import fit
from clipjax.finetune.training.losses import unit_norm
from clipjax.finetune.training.optimizer import KEPT, make_optimizer, scale_by_warmup_cosine
from clipjax.finetune.training.resume import Checkpoints
from clipjax.finetune.training.step import (
    Aux,
    Metrics,
    check_batch,
    init_state,
    make_step,
    state_shardings,
)
from clipjax.finetune.training.trees import Params, split
from clipjax.models.arch import arch_to_dict
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.training import Training
from clipjax.storage.digests import sha256_json

MAX_LOGIT_SCALE = math.log(100)
_LENGTHS = 4  # a demo's captions have 11 or 12 ids


@dataclass(frozen=True)
class ContrastiveRecipe:
    """Everything but data and architecture that decides the trained weights.

    Attributes:
        warmup: steps in which the learning rate rises from 0, before its cosine to 0.
        batch_size: images in the global batch.
    """

    steps: int
    warmup: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    seed: int = 0
    precision: Precision = "parity"

    def transformation(self) -> optax.GradientTransformation:
        """AdamW, whose state holds the numbers of steps: recipes of other lengths share the program."""
        return _transformation(dataclasses.replace(self, seed=0))


@functools.lru_cache(maxsize=KEPT)
def _transformation(recipe: ContrastiveRecipe) -> optax.GradientTransformation:
    whole = make_optimizer(
        optax.constant_schedule(1.0), weight_decay=recipe.weight_decay, clip_norm=recipe.clip_norm
    )
    return optax.chain(whole, scale_by_warmup_cosine(recipe.learning_rate, recipe.warmup, recipe.steps))


def contrastive_loss(
    image_features: Array, text_features: Array, logit_scale: Array, excluded: Array | None = None
) -> tuple[Array, Metrics]:
    """CLIP's symmetric cross-entropy over all pairs of a global batch.

    Args:
        image_features: float32 [B, E], of any norm.
        text_features: float32 [B, E], of any norm; row i belongs to image i.
        logit_scale: float32 [], log of the inverse temperature.
        excluded: bool [B, B], false on the diagonal; true leaves image i and text j out of each other's
            softmax.

    Returns: the loss [], and the share of images closest to their own caption.
    """
    image, text = unit_norm(image_features), unit_norm(text_features)
    logits = jnp.exp(logit_scale) * jnp.matmul(image, text.T, precision="highest")
    logits = logits if excluded is None else jnp.where(excluded, -jnp.inf, logits)
    own = jnp.eye(logits.shape[0], dtype=bool)

    def cross_entropy(logits: Array) -> Array:  # without a look-up, which a TPU does slowly
        return -jnp.where(own, jax.nn.log_softmax(logits), 0).sum(axis=1).mean()

    loss = 0.5 * (cross_entropy(logits) + cross_entropy(logits.T))
    return loss, {"accuracy": jnp.mean(jnp.argmax(logits, axis=1) == jnp.arange(logits.shape[0]))}


@dataclass(frozen=True)
class ClipLoss:
    """The loss on {"pixels": uint8 [B,S,S,3], "tokens": int32 [B,L]}.

    Attributes:
        mask_collisions: see `collisions`; the batch has "label" int32 [B], too.
    """

    network: Network
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Precision
    platform: str | None
    training: Training
    mask_collisions: bool = False

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        pixels = normalize(batch["pixels"], self.mean, self.std, self.platform)
        image, statistics = self.network.train_image(
            params, pixels, precision=self.precision, training=self.training, platform=self.platform
        )
        text = self.network.train_text(
            params, batch["tokens"], precision=self.precision, training=self.training, platform=self.platform
        )
        excluded = collisions(batch["label"]) if self.mask_collisions else None
        value, metrics = contrastive_loss(image, text, params["logit_scale"], excluded)
        return value, Aux({**metrics, "logit_scale": jnp.exp(params["logit_scale"])}, statistics)


def collisions(labels: Array) -> Array:
    """Pairs that are not negatives: bool [B, B], true where i != j and the images share a class.

        labels 0, 1, 0: true at (0, 2) and (2, 0)

    Such a text fits the image as well. With s_ij = exp(logit_scale) * cosine(image i, text j), the masked
    loss is the mean over i of

        (log sum_j exp s_ij - s_ii) / 2 + (log sum_j exp s_ji - s_ii) / 2

    with both sums over j = i and the j of other classes.
    """
    return (labels[:, None] == labels[None, :]) & ~jnp.eye(labels.shape[0], dtype=bool)


def _cut(
    tower: Any, tokenizer: Callable[[list[str]], np.ndarray], manifest: Manifest, column: str
) -> Callable[[list[str]], np.ndarray] | None:
    """Cut after the last id in the data that the tower reads: features stay equal.

    The length is a multiple of `_LENGTHS`, so that sets of like captions share a program.
    """
    texts: list[str] = []
    for captions in manifest.columns.get(column, []):  # one text, or a list of them
        texts += [captions] if isinstance(captions, str) else captions
    if not texts:
        return None
    length = 0
    for start in range(0, len(texts), 4096):  # ids of millions of captions take gigabytes
        ids = tokenizer(texts[start : start + 4096])
        length = max(length, int(tower.reach(ids).max()))
    length = -(-length // _LENGTHS) * _LENGTHS
    return lambda batch: tokenizer(batch)[:, :length]


def bound_logit_scale(params: Params) -> Params:
    """Keep the inverse temperature in [1, 100], as open_clip does."""
    return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0.0, MAX_LOGIT_SCALE)}


def train(
    network: Network,
    manifest: Manifest,
    recipe: ContrastiveRecipe,
    *,
    pixels: PixelRecipe,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    tokenizer: Callable[[list[str]], np.ndarray],
    captions: str = "caption",
    checkpoints: Path | None = None,
    every: int = 200,
    mesh: Mesh | None = None,
    rules: Rules = DP,
    description: str = "train",
    progress: bool = True,
) -> Params:
    """Train a dual encoder from scratch on images and captions.

    Args:
        captions: the manifest's column.
        tokenizer: texts -> int32 [N, context length].
        every: steps between checkpoints.

    Returns: float32 params like `network.abstract_params()`.

    Raises:
        UsageError: the batch does not divide over the devices, or exceeds the data set.
        DataError: an unreadable image, no captions, unfit checkpoints, or a loss that is not finite.
        Interrupted: the same call continues.
    """
    mesh = make_mesh() if mesh is None else mesh
    check_batch(recipe.batch_size, mesh, len(manifest))
    tx = recipe.transformation()
    parts = split(network.init_params(jax.random.key(recipe.seed)), lambda _: True, update_statistics=True)
    shardings = state_shardings(parts, tx, mesh, rules)
    loss = ClipLoss(network, mean, std, recipe.precision, platform_of(mesh), Training("batch"))
    batches = training_batches(
        manifest,
        pixels,
        batch_size=recipe.batch_size // jax.process_count(),
        seed=recipe.seed,
        captions=captions,
        tokenize=_cut(network.arch.text, tokenizer, manifest, captions),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    identity = _identity(network, manifest, recipe)
    state = fit(
        init_state(parts, tx, shardings, recipe.seed),
        make_step(loss, tx, mesh, shardings, constrain=bound_logit_scale),
        batches,
        steps=recipe.steps,
        mesh=mesh,
        logs=Logs(recipe.steps, batch_size=recipe.batch_size, description=description, progress=progress),
        checkpoints=None if checkpoints is None else Checkpoints(checkpoints, identity),
        every=every,
        ids=manifest.ids,
    )
    return state.params


def _identity(network: Network, manifest: Manifest, recipe: ContrastiveRecipe) -> dict[str, str]:
    return {
        "architecture": sha256_json(arch_to_dict(network.arch))[:12],
        "training images": f"{len(manifest)} {sha256_json(manifest.ids)[:12]}",
        "processes": str(jax.process_count()),
        **{f"recipe.{name}": str(value) for name, value in vars(recipe).items()},
    }
