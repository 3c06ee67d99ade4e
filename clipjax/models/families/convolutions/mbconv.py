"""Networks of mobile inverted bottlenecks (MBConv): EfficientNet, -Lite and V2, MobileNetV2 and V3.

Sources: Sandler et al. 2018 (arXiv 1801.04381), Howard et al. 2019 (arXiv 1905.02244), Tan and Le 2019 and
2021 (arXiv 1905.11946, 2104.00298); timm 1.0 `efficientnet.EfficientNet`, `mobilenetv3.MobileNetV3` and
`_efficientnet_blocks`.
Difference: squeeze-excitations start from PyTorch's values.

Params:
    stem/conv/kernel [3,3,3,C]   stem/bn/...         [conv_stem, bn1]
    stage{0..}/first/...         [blocks.i.0]
    stage{0..}/rest/...          [blocks.i.1, ...]
    stage{0..}/block{0..}/...    [blocks.i.0, ...] instead, if blocks after the first differ in shape
        "inverted":  expand/{conv/kernel [1,1,I,M], bn}      [conv_pw, bn1]
                     depthwise/{conv/kernel [k,k,1,M], bn}   [conv_dw, bn2]
                     project/{conv/kernel [1,1,M,O], bn}     [conv_pwl, bn3]
        "separable": depthwise/...                           [conv_dw, bn1]
                     project/...                             [conv_pw, bn2]
        "fused":     fused/{conv/kernel [k,k,I,M], bn}       [conv_exp, bn1]
                     narrow/{conv/kernel [1,1,M,O], bn}      [conv_pwl, bn2]
        "plain":     plain/{conv/kernel [k,k,I,O], bn}       [conv, bn1]
        squeezed:    se/{fc1,fc2}/{kernel,bias}              [se.conv_reduce, se.conv_expand]
    final/conv/kernel [1,1,I,E]   final/bn/...               [conv_head, bn2]
    or, after pooling, hidden/{kernel [I,E],bias}            [conv_head]
    head/{kernel,bias}                                       [classifier]
Stages: stem, blocks.0.0, ..., blocks.6.0, then head (the map after `final`) and pooled, or pooled and hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import variance_scaling
from clipjax.models.modules.maps import SqueezeExcite
from clipjax.models.modules.stages import Stage, dense, run_stages

Activation = Literal["relu", "relu6", "silu", "hard_swish"]

# timm's `_init_weight_goog`: normal with variance 2 / fan_out, where a depthwise kernel's fan_out is k * k.
_FAN_OUT = variance_scaling(2.0, "fan_out", "normal")
_DEPTHWISE = variance_scaling(2.0, "fan_in", "normal")


@dataclass(frozen=True)
class SqueezeConfig:
    """A squeeze-excitation before a block's last convolution.

    width: hidden channels, one per block; or a divisor of the block's input channels.
    """

    width: int | tuple[int, ...]
    activation: Activation
    gate: Literal["sigmoid", "hard_sigmoid"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of one block; `squeezed` is 0 without a squeeze-excitation."""

    in_dim: int
    middle: int
    squeezed: int
    stride: int


@dataclass(frozen=True)
class StageConfig:
    """`depth` blocks of one `kernel` size; the first has the `stride`.

    block: "inverted" widens, convolves depthwise and narrows; "separable" does not widen; "fused" convolves
        and widens at once, then narrows; "plain" is one convolution.
    expand: the factor by which the first convolution widens, or its output widths, one per block.
    squeeze: optional, so that older records stay valid.
    """

    block: Literal["inverted", "separable", "fused", "plain"]
    kernel: int
    stride: int
    expand: int | tuple[int, ...]
    width: int
    depth: int
    squeeze: SqueezeConfig | None = None

    def __post_init__(self) -> None:
        if self.block in ("separable", "plain") and self.expand != 1:
            raise ValueError(f'a "{self.block}" block does not widen: expand is {self.expand}, not 1')
        if self.block == "plain" and self.squeeze is not None:
            raise ValueError('a "plain" block has no place for a squeeze-excitation')
        if self.depth < 1:
            raise ValueError(f"depth {self.depth} is not a positive number of blocks")
        for name, widths in (("expand", self.expand), ("squeeze", self.squeeze and self.squeeze.width)):
            if isinstance(widths, tuple) and len(widths) != self.depth:
                raise ValueError(f"{name} {widths} has not one width for each of {self.depth} blocks")

    def sizes(self, in_dim: int) -> list[Sizes]:
        ins = [in_dim, *[self.width] * (self.depth - 1)]
        middle = self.expand if isinstance(self.expand, tuple) else [self.expand * dim for dim in ins]
        squeezed = self.squeeze.width if self.squeeze else [0] * self.depth
        if isinstance(squeezed, int):
            if any(dim % squeezed for dim in ins):
                raise ValueError(f"squeeze {squeezed} does not divide the channels of every block, {ins}")
            squeezed = [dim // squeezed for dim in ins]
        strides = [self.stride, *[1] * (self.depth - 1)]
        return [Sizes(*each) for each in zip(ins, middle, squeezed, strides, strict=True)]


@dataclass(frozen=True)
class MBConvConfig:
    """`activation`: one for all, or a list: the stem's, each stage's and the last convolution's.

    padding: "tf_same" for every `tf_` model.
    final: "pooled" (MobileNetV3): the last convolution follows the pooling, with a bias instead of BatchNorm;
        None: on the map.
    """

    image_size: int
    stem_width: int
    embed_dim: int
    activation: Activation | tuple[Activation, ...]
    padding: convolutions.Padding
    bn_eps: float
    stages: tuple[StageConfig, ...]
    final: Literal["pooled"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.activation, tuple) and len(self.activation) != len(self.stages) + 2:
            count = len(self.activation)
            raise ValueError(
                f"activation has {count} entries: stem, stages and last convolution have one each"
            )
        for in_dim, stage in zip(self.in_dims, self.stages):
            stage.sizes(in_dim)  # refuses widths that do not fit

    @property
    def in_dims(self) -> list[int]:
        """Channels that enter each stage and, last, leave them."""
        return [self.stem_width, *[stage.width for stage in self.stages]]

    @property
    def activations(self) -> Sequence[str]:
        one = self.activation
        return [one] * (len(self.stages) + 2) if isinstance(one, str) else one


class ConvNorm(nnx.Module):
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        activation: str | None,
        config: MBConvConfig,
        *,
        rngs: nnx.Rngs,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
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
        self.activation = None if activation is None else layers.ActivationLayer(activation)

    def __call__(self, x: Array) -> Array:
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class MBConv(Layer):
    def __init__(
        self, sizes: Sizes, stage: StageConfig, activation: str, config: MBConvConfig, *, rngs: nnx.Rngs
    ):
        s, out_dim = sizes, stage.width
        layer = partial(ConvNorm, config=config, rngs=rngs)
        wide = partial(layer, activation=activation, kernel=stage.kernel, stride=s.stride)
        if stage.block == "inverted":
            self.expand = layer(s.in_dim, s.middle, activation)
        if stage.block in ("inverted", "separable"):
            self.depthwise = wide(s.middle, s.middle, depthwise=True)
        if stage.block == "fused":
            self.fused = wide(s.in_dim, s.middle)
        if stage.squeeze is not None:
            kinds = {"activation": stage.squeeze.activation, "gate": stage.squeeze.gate}
            self.se = SqueezeExcite(s.middle, s.squeezed, **kinds, rngs=rngs)
        if stage.block in ("inverted", "separable"):
            self.project = layer(s.middle, out_dim, None)
        if stage.block == "fused":
            self.narrow = layer(s.middle, out_dim, None)
        if stage.block == "plain":
            self.plain = wide(s.in_dim, out_dim)
        self.residual = s.stride == 1 and s.in_dim == out_dim

    def __call__(self, x: Array) -> Array:
        y = x
        for name in ("expand", "depthwise", "fused", "se", "project", "narrow", "plain"):
            layer = getattr(self, name, None)
            if layer is not None:
                y = layer(y)
        return x + y if self.residual else y


class UnequalStage(nnx.Module):
    """Blocks that differ in shape after the first and cannot be stacked."""

    def __init__(self, blocks: Sequence[Callable[..., nnx.Module]], *, rngs: nnx.Rngs):
        for i, block in enumerate(blocks):
            setattr(self, f"block{i}", block(rngs=rngs))
        self.depth = len(blocks)

    def __call__(self, x: Array, capture: bool) -> tuple[Array, list[Array]]:
        outputs = []
        for i in range(self.depth):
            x = sequence.apply(getattr(self, f"block{i}"), x)
            outputs.append(x)
        return x, outputs


def stage_of(index: int, config: MBConvConfig, rngs: nnx.Rngs) -> Stage | UnequalStage:
    stage, activation = config.stages[index], config.activations[index + 1]

    block = partial(MBConv, stage=stage, activation=activation, config=config)
    sizes = stage.sizes(config.in_dims[index])
    if len(set(sizes[1:])) > 1:
        return UnequalStage([partial(block, each) for each in sizes], rngs=rngs)
    return Stage(partial(block, sizes[0]), partial(block, sizes[-1]), stage.depth, rngs=rngs)


class MBConvNet(nnx.Module):
    def __init__(self, config: MBConvConfig, rngs: nnx.Rngs):
        c, out_dim = config, config.in_dims[-1]
        self.stem = ConvNorm(3, c.stem_width, c.activations[0], c, kernel=3, stride=2, rngs=rngs)
        for i in range(len(c.stages)):
            setattr(self, f"stage{i}", stage_of(i, c, rngs))
        if c.final == "pooled":
            self.hidden = layers.Linear(out_dim, c.embed_dim, kernel_init=_FAN_OUT, rngs=rngs)
        else:
            self.final = ConvNorm(out_dim, c.embed_dim, c.activations[-1], c, rngs=rngs)
        self.pooled_first = c.final == "pooled"
        self.activation = layers.ActivationLayer(c.activations[-1])
        self.depth = len(c.stages)

    @property
    def stages(self) -> dict[str, Any]:
        return {f"blocks.{i}": getattr(self, f"stage{i}") for i in range(self.depth)}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        if self.pooled_first:  # MobileNetV3 pools before its last layer
            pooled = jnp.mean(x, axis=(1, 2))
            features = self.activation(self.hidden(pooled))
            return features, {"stem": stem, **outputs, "pooled": pooled, "hidden": features}
        x = self.final(x)
        features = jnp.mean(x, axis=(1, 2))
        return features, {"stem": stem, **outputs, "head": x, "pooled": features}


def narrow(config: MBConvConfig) -> MBConvConfig:
    """A narrow architecture; one with lists of widths (MobileNetV3) only has smaller images."""
    if any(isinstance(stage.expand, tuple) for stage in config.stages):
        return dataclasses.replace(config, image_size=64)
    stages = tuple(
        dataclasses.replace(stage, width=stage.width // 2, depth=min(stage.depth, 3))
        for stage in config.stages
    )
    stem_width, embed_dim = config.stem_width // 2, config.embed_dim // 2
    return dataclasses.replace(
        config, image_size=64, stem_width=stem_width, embed_dim=embed_dim, stages=stages
    )


FAMILY = Family(
    name="mbconv",
    tower="vision",
    config=MBConvConfig,
    build=MBConvNet,
    narrow=narrow,
    depth=lambda config: len(config.stages),
    dense=dense,
)
