"""CLIP's ModifiedResNet: a bottleneck ResNet with average pools and attention pooling.

Sources: He et al. 2015 (arXiv 1512.03385), Zhang 2019 (arXiv 1904.11486) for the anti-aliasing, Radford et
al. 2021 (arXiv 2103.00020) section 2.4; open_clip 3.3.0 `modified_resnet.ModifiedResNet`.
Only the first convolution has a stride. Elsewhere an average pool halves the map, before a block's last
convolution and its shortcut's.
Difference: the attention pool computes only the mean token's query, whose output alone is read.

Params:
    stem/conv{1,2,3}/kernel [3,3,I,O]   stem/bn{1,2,3}/...   [conv1, bn1, ...]
    layer{1..4}/first/...   [layerN.0]: conv{1,2,3}/kernel, bn{1,2,3}/...,
                            downsample/{conv/kernel [1,1,I,O], bn/...} [downsample.0, .1]
    layer{1..4}/rest/...    [layerN.1, ...] without downsample
    attnpool/positional_embedding [HW+1,C]   attnpool/{q,k,v,out}/{kernel,bias}   [q_proj, ..., c_proj]
Stages: stem, layer1.0, layer1.1, ..., layer4.N, projected.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Positions
from clipjax.models.modules import attention, convolutions, layers, pools
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal
from clipjax.models.modules.stages import Stage, dense, run_stages

EXPANSION = 4  # a block's output is this many times wider than its 3x3 convolution
REDUCTION = 32  # image pixels per pixel of the last map


@dataclass(frozen=True)
class ModifiedResNetConfig:
    """`width` is the stem's, `heads` are the attention pool's; stage i has `layers[i]` blocks."""

    image_size: int
    width: int
    layers: tuple[int, ...]
    heads: int
    bn_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, REDUCTION)
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"layers {list(self.layers)} are not four positive numbers of blocks")
        if self.width % 2 or self.width * REDUCTION % self.heads:
            raise ValueError(
                f"width {self.width} is odd, or 32 times it is not a multiple of heads {self.heads}"
            )


class Stem(nnx.Module):
    """[B, S, S, 3] -> [B, S / 4, S / 4, width]."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        half = width // 2
        self.conv1 = convolutions.Conv(3, half, kernel=3, stride=2, rngs=rngs)
        self.bn1 = convolutions.BatchNorm(half, eps=eps)
        self.conv2 = convolutions.Conv(half, half, kernel=3, rngs=rngs)
        self.bn2 = convolutions.BatchNorm(half, eps=eps)
        self.conv3 = convolutions.Conv(half, width, kernel=3, rngs=rngs)
        self.bn3 = convolutions.BatchNorm(width, eps=eps)
        self.pool = pools.AveragePool(2)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return self.pool(jax.nn.relu(self.bn3(self.conv3(x))))


class Downsample(nnx.Module):
    def __init__(self, in_dim: int, out_dim: int, *, stride: int, eps: float, rngs: nnx.Rngs):
        self.conv = convolutions.Conv(in_dim, out_dim, kernel=1, rngs=rngs)
        self.bn = convolutions.BatchNorm(out_dim, eps=eps)
        self.pool = pools.AveragePool(stride)

    def __call__(self, x: Array) -> Array:
        return self.bn(self.conv(self.pool(x)))


class Bottleneck(Layer):
    def __init__(self, in_dim: int, planes: int, *, stride: int, first: bool, eps: float, rngs: nnx.Rngs):
        out_dim = planes * EXPANSION
        self.conv1 = convolutions.Conv(in_dim, planes, kernel=1, rngs=rngs)
        self.bn1 = convolutions.BatchNorm(planes, eps=eps)
        self.conv2 = convolutions.Conv(planes, planes, kernel=3, rngs=rngs)
        self.bn2 = convolutions.BatchNorm(planes, eps=eps)
        self.conv3 = convolutions.Conv(planes, out_dim, kernel=1, rngs=rngs)
        self.bn3 = convolutions.BatchNorm(out_dim, eps=eps, scale=0.0)
        self.downsample = Downsample(in_dim, out_dim, stride=stride, eps=eps, rngs=rngs) if first else None
        self.pool = pools.AveragePool(stride)

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.pool(y)))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


def stage_of(in_dim: int, planes: int, depth: int, *, stride: int, eps: float, rngs: nnx.Rngs) -> Stage:
    block = partial(Bottleneck, planes=planes, eps=eps)
    first = partial(block, in_dim, stride=stride, first=True)
    rest = partial(block, planes * EXPANSION, stride=1, first=False)
    return Stage(first, rest, depth, rngs=rngs)


class AttentionPool(nnx.Module):
    """The mean of a map attends to the map and itself: [B, H, W, C] -> [B, E]."""

    def __init__(self, tokens: int, dim: int, heads: int, embed_dim: int, *, rngs: nnx.Rngs):
        self.positional_embedding = nnx.Param(normal(dim**-0.5)(rngs.params(), (tokens + 1, dim)))
        init, bias = normal(dim**-0.5), layers.uniform(dim**-0.5)
        self.q = layers.Linear(dim, dim, kernel_init=init, bias_init=bias, rngs=rngs)
        self.k = layers.Linear(dim, dim, kernel_init=init, bias_init=bias, rngs=rngs)
        self.v = layers.Linear(dim, dim, kernel_init=init, bias_init=bias, rngs=rngs)
        self.out = layers.Linear(dim, embed_dim, kernel_init=init, bias_init=bias, rngs=rngs)
        self.attend = attention.MultiHead(heads)

    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + self.positional_embedding[...]
        mixed = self.attend(self.q(x[:, :1]), self.k(x), self.v(x))
        return self.out(mixed[:, 0])


class ModifiedResNet(nnx.Module):
    def __init__(self, config: ModifiedResNetConfig, rngs: nnx.Rngs):
        c = config
        self.stem = Stem(c.width, eps=c.bn_eps, rngs=rngs)
        in_dim = c.width
        for i, depth in enumerate(c.layers):
            planes, stride = c.width * 2**i, 1 if i == 0 else 2
            stage = stage_of(in_dim, planes, depth, stride=stride, eps=c.bn_eps, rngs=rngs)
            setattr(self, f"layer{i + 1}", stage)
            in_dim = planes * EXPANSION
        tokens = (c.image_size // REDUCTION) ** 2
        self.attnpool = AttentionPool(tokens, in_dim, c.heads, c.embed_dim, rngs=rngs)

    @property
    def stages(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("layer1", "layer2", "layer3", "layer4")}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        features = self.attnpool(x)
        return features, {"stem": stem, **outputs, "projected": features}


def narrow(config: ModifiedResNetConfig) -> ModifiedResNetConfig:
    width = config.width // 4
    heads = width * REDUCTION // (config.width * REDUCTION // config.heads)
    sizes = {"image_size": 3 * REDUCTION, "width": width, "layers": (2, 1, 2, 1), "heads": heads}
    return dataclasses.replace(config, **sizes, embed_dim=96)


FAMILY = Family(
    name="modified_resnet",
    tower="vision",
    config=ModifiedResNetConfig,
    build=ModifiedResNet,
    narrow=narrow,
    depth=lambda config: len(config.layers),
    dense=dense,
    # open_clip does not resample a pooling's table.
    positions=lambda c: Positions("attnpool/positional_embedding", 1, c.image_size // REDUCTION, None),
)
