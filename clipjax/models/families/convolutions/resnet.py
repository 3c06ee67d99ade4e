"""ResNet, ResNeXt, wide ResNet, SE-ResNet, and the widened ones of SimCLR.

Sources: He et al. 2015 (arXiv 1512.03385), Xie et al. 2016 (arXiv 1611.05431), Hu et al. 2017
(arXiv 1709.01507); timm 1.0 `resnet.ResNet` with `BasicBlock`, `Bottleneck` and
`layers.squeeze_excite.SEModule`. A stage's first 3x3 convolution has its stride.

Params:
    stem/conv/kernel [7,7,3,C]   stem/bn/...   [conv1, bn1]
    layer{1..4}/first/...   [layerN.0]: conv{1,2,3}/kernel, bn{1,2,3}/... (3 in bottlenecks only);
                            se/{fc1,fc2}/{kernel,bias} unless `se_widths` are 0;
                            downsample/{conv/kernel [1,1,I,O], bn/...} [downsample.0, .1] where the shape
                            changes
    layer{1..4}/rest/...    [layerN.1, ...] without downsample
    head/{kernel,bias}      [fc]
Stages: stem (after the max pool), layer1.0, ..., layer4.N, pooled.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, pools
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import variance_scaling
from clipjax.models.modules.maps import SqueezeExcite
from clipjax.models.modules.stages import Stage, dense, run_stages

_FAN_OUT = variance_scaling(2.0, "fan_out", "normal")  # timm's kaiming_normal_ of every convolution
_SE = {"activation": "relu", "gate": "sigmoid"}


@dataclass(frozen=True)
class ResNetConfig:
    """Four stages; stage i has `layers[i]` blocks.

    Attributes:
        block: "basic": two 3x3 convolutions; "bottleneck": 1x1, 3x3, 1x1.
        widths: output channels.
        middle: channels of the (in a basic block: first) 3x3 convolution.
        groups: of a bottleneck's 3x3 convolution.
        se_widths: squeeze-excitation channels, 0 without one.
    """

    image_size: int
    block: Literal["basic", "bottleneck"]
    stem_width: int
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    middle: tuple[int, ...]
    groups: int
    se_widths: tuple[int, ...]
    bn_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        for name in ("layers", "widths", "middle", "se_widths"):
            if len(values := getattr(self, name)) != 4 or min(values) < (name != "se_widths"):
                raise ValueError(f"{name} {list(values)} are not four positive numbers, one a stage")
        if self.groups < 1 or any(width % self.groups for width in self.middle):
            raise ValueError(f"middle {list(self.middle)} are not all multiples of groups {self.groups}")
        if self.block == "basic" and self.groups != 1:
            raise ValueError(f'a "basic" block has no groups: groups is {self.groups}, not 1')
        if self.embed_dim != self.widths[-1]:
            raise ValueError(f"embed_dim {self.embed_dim} is not the last of widths {list(self.widths)}")


class Stem(nnx.Module):
    """7x7 convolution and max pool: [B, S, S, 3] -> [B, S / 4, S / 4, stem_width]."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        width = config.stem_width
        self.conv = convolutions.Conv(3, width, kernel=7, stride=2, kernel_init=_FAN_OUT, rngs=rngs)
        self.bn = convolutions.BatchNorm(width, eps=config.bn_eps)
        self.pool = pools.MaxPool(window=3, stride=2, padding="symmetric", outside=-jnp.inf)

    def __call__(self, x: Array) -> Array:
        return self.pool(jax.nn.relu(self.bn(self.conv(x))))


class Downsample(nnx.Module):
    def __init__(self, in_dim: int, out_dim: int, *, stride: int, eps: float, rngs: nnx.Rngs):
        self.conv = convolutions.Conv(
            in_dim, out_dim, kernel=1, stride=stride, kernel_init=_FAN_OUT, rngs=rngs
        )
        self.bn = convolutions.BatchNorm(out_dim, eps=eps)

    def __call__(self, x: Array) -> Array:
        return self.bn(self.conv(x))


class Block(Layer):
    def __init__(self, in_dim: int, stride: int, stage: int, config: ResNetConfig, *, rngs: nnx.Rngs):
        c, middle, out_dim = config, config.middle[stage], config.widths[stage]
        wide = partial(convolutions.Conv, kernel=3, kernel_init=_FAN_OUT, rngs=rngs)
        narrow = partial(convolutions.Conv, kernel=1, kernel_init=_FAN_OUT, rngs=rngs)
        if c.block == "basic":
            convs = [wide(in_dim, middle, stride=stride), wide(middle, out_dim)]
        else:
            convs = [narrow(in_dim, middle), wide(middle, middle, stride=stride, groups=c.groups)]
            convs.append(narrow(middle, out_dim))
        self.depth = len(convs)
        for i, conv in enumerate(convs, 1):
            setattr(self, f"conv{i}", conv)
            dim = out_dim if i == self.depth else middle
            # The last scale starts at zero, as in timm: an untrained block is its shortcut.
            scale = 0.0 if i == self.depth else 1.0
            setattr(self, f"bn{i}", convolutions.BatchNorm(dim, eps=c.bn_eps, scale=scale))
        squeezed = c.se_widths[stage]
        self.se = SqueezeExcite(out_dim, squeezed, **_SE, rngs=rngs) if squeezed else None
        changes = stride != 1 or in_dim != out_dim
        self.downsample = (
            Downsample(in_dim, out_dim, stride=stride, eps=c.bn_eps, rngs=rngs) if changes else None
        )

    def __call__(self, x: Array) -> Array:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y if i == self.depth else jax.nn.relu(y)
        y = y if self.se is None else self.se(y)
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage_of(in_dim: int, stage: int, config: ResNetConfig, rngs: nnx.Rngs) -> Stage:
    first = partial(Block, in_dim, 1 if stage == 0 else 2, stage, config)
    rest = partial(Block, config.widths[stage], 1, stage, config)
    return Stage(first, rest, config.layers[stage], rngs=rngs)


class ResNet(nnx.Module):
    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.stem = Stem(config, rngs)
        in_dim = config.stem_width
        for i, width in enumerate(config.widths):
            setattr(self, f"layer{i + 1}", stage_of(in_dim, i, config, rngs))
            in_dim = width

    @property
    def stages(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("layer1", "layer2", "layer3", "layer4")}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        features = jnp.mean(x, axis=(1, 2))
        return features, {"stem": stem, **outputs, "pooled": features}


def narrow(config: ResNetConfig) -> ResNetConfig:
    """A basic net's first stage keeps the stem's width: it has no shortcut."""
    sizes = {name: tuple(v // 2 for v in getattr(config, name)) for name in ("widths", "middle", "se_widths")}
    if config.block == "basic":
        sizes["widths"] = sizes["middle"] = (config.stem_width, 32, 48, 64)
    embed_dim = sizes["widths"][-1]
    return dataclasses.replace(config, **sizes, image_size=64, layers=(2, 1, 2, 1), embed_dim=embed_dim)


FAMILY = Family(
    name="resnet",
    tower="vision",
    config=ResNetConfig,
    build=ResNet,
    narrow=narrow,
    depth=lambda config: len(config.layers),
    dense=dense,
)
