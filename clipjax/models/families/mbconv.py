"""Networks of mobile inverted bottlenecks (MBConv): EfficientNet-Lite, and the frame of its relatives.

Sources: Sandler et al. 2018 (arXiv 1801.04381), Tan and Le 2019 (arXiv 1905.11946); timm 1.0
`efficientnet.EfficientNet` with `_efficientnet_blocks.DepthwiseSeparableConv` and `InvertedResidual` for the
details.
Difference: no dropout and no stochastic depth in training.

Params, with timm's names in brackets where they differ; bn stands for {scale,bias,mean,var}:
    stem/conv/kernel [3,3,3,C]   stem/bn/...                 [conv_stem, bn1]
    stage{0..}/first/...         [blocks.i.0]
    stage{0..}/rest/...          [blocks.i.1, ...] stacked on axis 0; absent in a stage of one block
        "inverted":  expand/{conv/kernel [1,1,I,M], bn}      [conv_pw, bn1]
                     depthwise/{conv/kernel [k,k,1,M], bn}   [conv_dw, bn2]
                     project/{conv/kernel [1,1,M,O], bn}     [conv_pwl, bn3]
        "separable": depthwise/...                           [conv_dw, bn1]
                     project/...                             [conv_pw, bn2]
    final/conv/kernel [1,1,I,E]   final/bn/...               [conv_head, bn2]
and the classifier's head/{kernel,bias}                      [classifier]
Stages: stem, blocks.0.0, ..., blocks.6.0, head (the map after `final`), pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import variance_scaling
from jaxtyping import Float

from clipjax.models import convolutions, layers
from clipjax.models.arch import Family
from clipjax.models.stages import Stage, maps_at, run_stages
from clipjax.models.training import Mode

# timm's `_init_weight_goog`: normal with variance 2 / fan_out, where a depthwise kernel's fan_out is k * k.
_FAN_OUT = variance_scaling(2.0, "fan_out", "normal")
_DEPTHWISE = variance_scaling(2.0, "fan_in", "normal")


@dataclass(frozen=True)
class StageConfig:
    """`depth` blocks of one `kernel` size and output `width`; the first has the `stride`.

    block: "inverted" widens `expand` times, convolves depthwise and narrows; "separable" does not widen.
    """

    block: Literal["inverted", "separable"]
    kernel: int
    stride: int
    expand: int
    width: int
    depth: int

    def __post_init__(self) -> None:
        if self.block == "separable" and self.expand != 1:
            raise ValueError(f'a "separable" block does not widen: expand is {self.expand}, not 1')
        if self.depth < 1:
            raise ValueError(f"depth {self.depth} is not a positive number of blocks")


@dataclass(frozen=True)
class MBConvConfig:
    """`padding` "tf_same" is TensorFlow's, of every `tf_` model; `embed_dim` is the width before the head."""

    image_size: int
    stem_width: int
    embed_dim: int
    activation: Literal["relu6"]
    padding: convolutions.Padding
    bn_eps: float
    stages: tuple[StageConfig, ...]


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm and, unless `linear`, an activation."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        config: MBConvConfig,
        *,
        rngs: nnx.Rngs,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        linear: bool = False,
    ):
        self.conv = convolutions.Conv(
            in_dim,
            out_dim,
            kernel=kernel,
            stride=stride,
            padding=config.padding,
            groups=in_dim if depthwise else 1,
            kernel_init=_DEPTHWISE if depthwise else _FAN_OUT,
            rngs=rngs,
        )
        self.bn = convolutions.BatchNorm(out_dim, eps=config.bn_eps)
        self.activation = None if linear else config.activation

    def __call__(self, x: Array, mode: Mode) -> Array:
        x = self.bn(self.conv(x, mode), mode)
        return x if self.activation is None else layers.ACTIVATIONS[self.activation](x)


class MBConv(nnx.Module):
    """Widens (unless "separable"), convolves depthwise, narrows; adds the input if the shapes are equal."""

    def __init__(self, in_dim: int, stride: int, stage: StageConfig, config: MBConvConfig, *, rngs: nnx.Rngs):
        middle = in_dim * stage.expand
        self.expand = ConvNorm(in_dim, middle, config, rngs=rngs) if stage.block == "inverted" else None
        self.depthwise = ConvNorm(
            middle, middle, config, kernel=stage.kernel, stride=stride, depthwise=True, rngs=rngs
        )
        self.project = ConvNorm(middle, stage.width, config, linear=True, rngs=rngs)
        self.residual = stride == 1 and in_dim == stage.width

    def __call__(self, x: Array, mode: Mode) -> Array:
        y = x if self.expand is None else self.expand(x, mode)
        y = self.project(self.depthwise(y, mode), mode)
        return x + y if self.residual else y


def stage_of(in_dim: int, stage: StageConfig, config: MBConvConfig, rngs: nnx.Rngs) -> Stage:
    """Blocks of `stage.width`; the first takes `in_dim` channels and has the stride."""
    first = partial(MBConv, in_dim, stage.stride, stage, config)
    rest = partial(MBConv, stage.width, 1, stage, config)
    return Stage(lambda rngs: first(rngs=rngs), lambda rngs: rest(rngs=rngs), stage.depth, rngs)


class MBConvNet(nnx.Module):
    """Normalised images -> pooled features, which the classifier's head reads."""

    def __init__(self, config: MBConvConfig, rngs: nnx.Rngs):
        c = config
        self.stem = ConvNorm(3, c.stem_width, c, kernel=3, stride=2, rngs=rngs)
        in_dim = c.stem_width
        for i, stage in enumerate(c.stages):
            setattr(self, f"stage{i}", stage_of(in_dim, stage, c, rngs))
            in_dim = stage.width
        self.final = ConvNorm(in_dim, c.embed_dim, c, rngs=rngs)
        self.depth = len(c.stages)

    def __call__(
        self, images: Float[Array, "B S S 3"], mode: Mode, capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images, mode)
        stages = {f"blocks.{i}": getattr(self, f"stage{i}") for i in range(self.depth)}
        x, outputs = run_stages(stages, stem, mode, capture)
        x = self.final(x, mode)
        features = jnp.mean(x, axis=(1, 2))
        return features, {"stem": stem, **outputs, "head": x, "pooled": features}


def dense(
    tower: MBConvNet, images: Float[Array, "B S S 3"], stages: Sequence[int], mode: Mode
) -> list[Float[Array, "B _ _ _"]]:
    """The maps of the given stages (ascending)."""
    found = [getattr(tower, f"stage{i}") for i in range(stages[-1] + 1)]
    return maps_at(found, tower.stem(images, mode), mode=mode, at=stages)


def narrow(config: MBConvConfig) -> MBConvConfig:
    """Smaller images only: timm's `create_model` cannot change the other sizes, and they are small."""
    return dataclasses.replace(config, image_size=96)


FAMILY = Family(
    name="mbconv",
    tower="vision",
    config=MBConvConfig,
    build=MBConvNet,
    narrow=narrow,
    depth=lambda config: len(config.stages),
    dense=dense,
)
