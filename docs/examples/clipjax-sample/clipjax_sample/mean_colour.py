"""The family `mean_colour`, the least image tower: one linear layer over the mean colour.

Params: project/kernel [3, E].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from clipjax.models.arch import Family

INTERFACE = 2


@dataclasses.dataclass(frozen=True)
class MeanColourConfig:
    image_size: int
    embed_dim: int


class MeanColour(nnx.Module):
    """Images [B, S, S, 3], normalised -> features [B, E]."""

    def __init__(self, config: MeanColourConfig, rngs: nnx.Rngs):
        self.project = nnx.Linear(3, config.embed_dim, use_bias=False, rngs=rngs)

    def __call__(self, images: Array, capture: bool) -> tuple[Array, dict[str, Array]]:
        features = self.project(jnp.mean(images, axis=(1, 2)))
        return features, {"project": features} if capture else {}


def dense(tower: MeanColour, images: Array, layers: Sequence[int]) -> list[Array]:
    """Its only map: the layer over each pixel's own colour, [B, h, w, E]."""
    return [tower.project(images) for _ in layers]


FAMILY = Family(
    name="mean_colour",
    tower="vision",
    config=MeanColourConfig,
    build=MeanColour,
    narrow=lambda config: dataclasses.replace(config, image_size=8),
    depth=lambda config: 1,
    dense=dense,
)


def save_example(folder: str) -> None:
    """A classifier of red, green and blue whose answers are known, as a checkpoint for `--model FOLDER`."""
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.model import Model

    project = {"kernel": jnp.eye(3)}
    head = {"kernel": 10 * jnp.eye(3), "bias": jnp.zeros(3)}
    params = jax.tree.map(jnp.asarray, {"vision": {"project": project}, "head": head})
    Model(model_card("mean_colour-rgb"), params).save(folder)
