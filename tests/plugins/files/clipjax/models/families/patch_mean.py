"""The least image tower: the mean of the patches' projections.

Params: patches/kernel [P,P,3,E].
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax import Array

from clipjax.models.arch import Family


@dataclasses.dataclass(frozen=True)
class PatchMeanConfig:
    image_size: int
    patch_size: int
    embed_dim: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"patches of {self.patch_size} do not tile {self.image_size} pixels")


class PatchMean(nnx.Module):
    """images [B, S, S, 3] -> features [B, E]."""

    def __init__(self, config: PatchMeanConfig, rngs: nnx.Rngs):
        side = (config.patch_size, config.patch_size)
        self.patches = nnx.Conv(
            3, config.embed_dim, side, strides=side, padding="VALID", use_bias=False, rngs=rngs
        )

    def __call__(self, images: Array, capture: bool) -> tuple[Array, dict[str, Array]]:
        features = jnp.mean(self.patches(images), axis=(1, 2))
        return features, {"pooled": features}


FAMILY = Family(
    name="patch_mean",
    tower="vision",
    config=PatchMeanConfig,
    build=PatchMean,
    narrow=lambda config: dataclasses.replace(config, image_size=8, patch_size=4, embed_dim=16),
    depth=lambda config: 0,
)
