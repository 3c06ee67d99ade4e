"""ResNet v2 of BiT: norms before convolutions, GroupNorm, standardised kernels.

Sources: Kolesnikov et al. 2020 (arXiv 1912.11370); He et al. 2016 (arXiv 1603.05027) for the order; timm 1.0
`resnetv2.ResNetV2` as `_create_resnetv2_bit` builds it.

Params (kernels are raw):
    stem/kernel [7,7,3,C]               [stem.conv]
    stage{0..3}/first/...               [stages.i.blocks.0]:
        downsample/kernel [1,1,I,O]     [downsample.conv]; only in first
        norm1  conv1/kernel  norm2  conv2/kernel  norm3  conv3/kernel
    stage{0..3}/rest/...                [stages.i.blocks.1 ...]
    norm                                the last one
    head/{kernel,bias}                  [head.fc]
Stages: stem, stages.0.0, ..., stages.3.2, head, pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, layers, pools
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import variance_scaling
from clipjax.models.modules.maps import GroupNorm, StandardConv
from clipjax.models.modules.stages import Stage, maps_at, run_stages

# timm's `_init_weights`: kaiming_normal_ by fan-out, for ReLU.
_INIT = variance_scaling(2.0, "fan_out", "normal")


@dataclass(frozen=True)
class ResNetV2Config:
    """`bottleneck`: a block's output width over that of its 3x3 convolution.

    groups: of a norm.
    gn_eps: added to the variance of a group.
    conv_eps: added to the variance of a kernel's weights.
    pool_padding: around the map of the stem's max pool: "zeros" may be the maximum, "lowest" never is.
    """

    image_size: int
    stem_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottleneck: int
    groups: int
    gn_eps: float
    conv_eps: float
    activation: Literal["relu"]
    padding: convolutions.Padding
    pool_padding: Literal["zeros", "lowest"]
    embed_dim: int

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} is not positive")
        if len(self.widths) != len(self.depths) or min(self.depths, default=0) < 1:
            raise ValueError(f"widths {list(self.widths)} need as many depths of 1 and more")
        for width in (self.stem_width, *self.widths, *(width // self.bottleneck for width in self.widths)):
            if width < 1 or width % self.groups:
                raise ValueError(f"{width} channels are not a multiple of groups {self.groups}")
        if self.embed_dim != self.widths[-1]:
            raise ValueError(f"embed_dim {self.embed_dim} is not the last width, {self.widths[-1]}")


def convolution(
    in_dim: int, out_dim: int, *, kernel: int, config: ResNetV2Config, rngs: nnx.Rngs, stride: int = 1
) -> StandardConv:
    options = {"stride": stride, "padding": config.padding, "kernel_init": _INIT, "rngs": rngs}
    return StandardConv(in_dim, out_dim, eps=config.conv_eps, kernel=kernel, **options)


class NormAct(GroupNorm):
    def __init__(self, dim: int, config: ResNetV2Config):
        super().__init__(dim, groups=config.groups, eps=config.gn_eps)
        self.activation = layers.ActivationLayer(config.activation)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return self.activation(super().__call__(x))


class Block(Layer):
    """Pre-activation. In a stage's first block the shortcut is a convolution of the first norm's output."""

    def __init__(
        self, in_dim: int, dim: int, config: ResNetV2Config, *, stride: int, first: bool, rngs: nnx.Rngs
    ):
        conv = partial(convolution, config=config, rngs=rngs)
        inner = dim // config.bottleneck
        self.downsample = conv(in_dim, dim, kernel=1, stride=stride) if first else None
        self.norm1 = NormAct(in_dim, config)
        self.conv1 = conv(in_dim, inner, kernel=1)
        self.norm2 = NormAct(inner, config)
        self.conv2 = conv(inner, inner, kernel=3, stride=stride)
        self.norm3 = NormAct(inner, config)
        self.conv3 = conv(inner, dim, kernel=1)

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        before = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(before)
        y = self.conv2(self.norm2(self.conv1(before)))
        return shortcut + self.conv3(self.norm3(y))


def stage_of(index: int, config: ResNetV2Config, rngs: nnx.Rngs) -> Stage:
    dim = config.widths[index]
    in_dim = config.widths[index - 1] if index else config.stem_width
    first = partial(Block, in_dim, dim, config, stride=2 if index else 1, first=True)
    rest = partial(Block, dim, dim, config, stride=1, first=False)
    return Stage(first, rest, config.depths[index], rngs=rngs)


class ResNetV2(nnx.Module):
    def __init__(self, config: ResNetV2Config, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.stem = convolution(3, c.stem_width, kernel=7, stride=2, config=c, rngs=rngs)
        outside = {"zeros": 0.0, "lowest": -jnp.inf}[c.pool_padding]
        self.pool = pools.MaxPool(window=3, stride=2, padding="symmetric", outside=outside)
        for i in range(len(c.depths)):
            setattr(self, f"stage{i}", stage_of(i, c, rngs))
        self.norm = NormAct(c.embed_dim, c)

    @property
    def stages(self) -> dict[str, Any]:
        return {f"stages.{i}": getattr(self, f"stage{i}") for i in range(len(self.config.depths))}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.pooled_stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        x = self.norm(x)
        features = jnp.mean(x, axis=(1, 2))
        return features, {"stem": stem, **outputs, "head": x, "pooled": features}

    def pooled_stem(self, images: Array) -> Array:
        """[B, S, S, 3] -> [B, S / 4, S / 4, stem_width]."""
        return self.pool(self.stem(images))


def dense(
    tower: ResNetV2, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    """Stage 0: [B, S / 4, S / 4, widths[0]]."""
    return maps_at(tower.stages, tower.pooled_stem(images), at=stages)


def narrow(config: ResNetV2Config) -> ResNetV2Config:
    """Each norm's groups have at least two channels; the last maps have odd sides."""
    sizes = {"image_size": 80, "stem_width": 64, "embed_dim": 256}
    return dataclasses.replace(config, widths=(256,) * 4, depths=(2, 1, 1, 1), **sizes)


FAMILY = Family(
    name="resnetv2",
    tower="vision",
    config=ResNetV2Config,
    build=ResNetV2,
    narrow=narrow,
    depth=lambda config: len(config.depths),
    dense=dense,
)
