"""RegNetX and RegNetY: bottlenecks of one width with grouped convolutions; RegNetY has squeeze-excitation.

Sources: Radosavovic et al. 2020 (arXiv 2003.13678); timm 1.0 `regnet.RegNet` with `Bottleneck`. Every stage
halves the map, the first one too; the stem has no pool.

Params:
    stem/conv/kernel [3,3,3,C]   stem/bn/...
    stage{1..4}/first/...   [s1.b1, ...]: conv{1,2,3}/kernel, bn{1,2,3}/...   [convN.conv, convN.bn]
                            se/{fc1,fc2}/{kernel,bias} in RegNetY
                            downsample/{conv/kernel [1,1,I,O], bn/...}
    stage{1..4}/rest/...    [s1.b2, ...] without downsample
    head/{kernel,bias}      [head.fc]
Stages: stem, s1.0 [s1.b1], ..., s4.N, pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import variance_scaling
from clipjax.models.modules.maps import SqueezeExcite
from clipjax.models.modules.stages import Stage, maps_at, run_stages

# timm draws every convolution from a normal of variance 2 / fan_out, where a group has a share of fan_out.
_FAN_OUT = variance_scaling(2.0, "fan_out", "normal")
_SE = {"activation": "relu", "gate": "sigmoid"}


@dataclass(frozen=True)
class RegNetConfig:
    """Four stages; each tuple has one value per stage.

    Attributes:
        widths: channels of a block's convolutions.
        groups: of the 3x3 convolution.
        se_first: squeeze-excitation channels in the first block (a quarter of its input's); 0: none.
        se_rest: squeeze-excitation channels in the other blocks; 0: none.
    """

    image_size: int
    stem_width: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    groups: tuple[int, ...]
    se_first: tuple[int, ...]
    se_rest: tuple[int, ...]
    bn_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        for name in ("depths", "widths", "groups"):
            if len(values := getattr(self, name)) != 4 or min(values) < 1:
                raise ValueError(f"{name} {list(values)} are not four positive numbers, one a stage")
        for name in ("se_first", "se_rest"):
            if len(values := getattr(self, name)) != 4 or min(values) < 0:
                raise ValueError(f"{name} {list(values)} are not four numbers, one a stage")
        for width, groups in zip(self.widths, self.groups):
            if width % groups:
                raise ValueError(f"width {width} is not a multiple of its stage's {groups} groups")
        if self.embed_dim != self.widths[-1]:
            raise ValueError(f"embed_dim {self.embed_dim} is not the last of widths {list(self.widths)}")


class ConvNorm(nnx.Module):
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel: int,
        eps: float,
        rngs: nnx.Rngs,
        stride: int = 1,
        groups: int = 1,
        last: bool = False,
    ):
        self.conv = convolutions.Conv(
            in_dim, out_dim, kernel=kernel, stride=stride, groups=groups, kernel_init=_FAN_OUT, rngs=rngs
        )
        # timm starts the last scale of a block at zero: an untrained block is its shortcut.
        self.bn = convolutions.BatchNorm(out_dim, eps=eps, scale=0.0 if last else 1.0)

    def __call__(self, x: Array) -> Array:
        return self.bn(self.conv(x))


class Block(Layer):
    def __init__(self, in_dim: int, stride: int, stage: int, config: RegNetConfig, *, rngs: nnx.Rngs):
        width, groups = config.widths[stage], config.groups[stage]
        first = in_dim != width or stride != 1
        conv = partial(ConvNorm, eps=config.bn_eps, rngs=rngs)
        self.conv1 = conv(in_dim, width, kernel=1)
        self.conv2 = conv(width, width, kernel=3, stride=stride, groups=groups)
        squeezed = (config.se_first if first else config.se_rest)[stage]
        self.se = SqueezeExcite(width, squeezed, **_SE, rngs=rngs) if squeezed else None
        self.conv3 = conv(width, width, kernel=1, last=True)
        self.downsample = conv(in_dim, width, kernel=1, stride=stride) if first else None

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.conv1(x))
        y = jax.nn.relu(self.conv2(y))
        y = self.conv3(y if self.se is None else self.se(y))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage_of(in_dim: int, stage: int, config: RegNetConfig, rngs: nnx.Rngs) -> Stage:
    first = partial(Block, in_dim, 2, stage, config)
    rest = partial(Block, config.widths[stage], 1, stage, config)
    return Stage(first, rest, config.depths[stage], rngs=rngs)


class RegNet(nnx.Module):
    def __init__(self, config: RegNetConfig, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, config.stem_width, kernel=3, stride=2, eps=config.bn_eps, rngs=rngs)
        in_dim = config.stem_width
        for i, width in enumerate(config.widths):
            setattr(self, f"stage{i + 1}", stage_of(in_dim, i, config, rngs))
            in_dim = width

    @property
    def stages(self) -> dict[str, Any]:
        return {f"s{i}": getattr(self, f"stage{i}") for i in range(1, 5)}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = jax.nn.relu(self.stem(images))
        x, outputs = run_stages(self.stages, stem, capture)
        features = jnp.mean(x, axis=(1, 2))
        return features, {"stem": stem, **outputs, "pooled": features}


def dense(
    tower: RegNet, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    """Stage i: [B, S / (4 * 2**i), S / (4 * 2**i), widths[i]]."""
    return maps_at(tower.stages, jax.nn.relu(tower.stem(images)), at=stages)


def narrow(config: RegNetConfig) -> RegNetConfig:
    """timm's width rule for w0 24, wa 36.44, wm 2.49, group width 8 and depth 13."""
    widths = (24, 56, 152, 368)
    excited = any(config.se_first)
    return dataclasses.replace(
        config,
        image_size=96,
        depths=(1, 1, 4, 7),
        widths=widths,
        groups=tuple(width // 8 for width in widths),
        se_first=(8, 6, 14, 38) if excited else (0, 0, 0, 0),
        se_rest=(6, 14, 38, 92) if excited else (0, 0, 0, 0),
        embed_dim=widths[-1],
    )


FAMILY = Family(
    name="regnet",
    tower="vision",
    config=RegNetConfig,
    build=RegNet,
    narrow=narrow,
    depth=lambda config: len(config.depths),
    dense=dense,
)
