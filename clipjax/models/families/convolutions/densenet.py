"""DenseNet: every layer reads the outputs of all layers before it in its block.

Sources: Huang et al. 2016 (arXiv 1608.06993); timm 1.0 `densenet.DenseNet` with `DenseLayer` and
`DenseTransition`. Layers differ in shape, so blocks are not scanned.

Params, in brackets timm's names without "features."; norm is bn:
    stem/conv/kernel [7,7,3,C]   stem/norm/...   [conv0, norm0]
    denseblock{1..4}/denselayer{1..}/{norm1/..., conv1/kernel [1,1,I,4G], norm2/..., conv2/kernel [3,3,4G,G]}
    transition{1..3}/{norm/..., conv/kernel [1,1,I,I/2]}
    norm5/...
    head/{kernel,bias}   [classifier]
Stages: stem (after the max pool), denseblock1.0, ... (what a layer adds), transition1, ...,
norm5 (after its ReLU), pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, pools, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import he_normal

SMALLEST = 29  # pixels that leave one cell after five halvings
BOTTLENECK = 4  # a layer's first convolution has this many times its growth


@dataclass(frozen=True)
class DenseNetConfig:
    """Block i has `depths[i]` layers, each adding `growth` channels."""

    image_size: int
    stem_width: int
    growth: int
    depths: tuple[int, ...]
    bn_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        if self.image_size < SMALLEST:
            raise ValueError(
                f"image_size {self.image_size} is less than {SMALLEST}: the last map would be empty"
            )
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"depths {list(self.depths)} are not four positive numbers of layers")
        if self.embed_dim != (width := self.widths[-1]):
            raise ValueError(f"embed_dim {self.embed_dim} is not the last block's width {width}")

    @property
    def widths(self) -> list[int]:
        return widths_of(self.stem_width, self.growth, self.depths)


def widths_of(stem_width: int, growth: int, depths: Sequence[int]) -> list[int]:
    """Each block's output channels; a transition halves them."""
    widths, width = [], stem_width
    for depth in depths:
        widths.append(width + depth * growth)
        width = widths[-1] // 2
    return widths


class DenseLayer(Layer):
    def __init__(self, in_dim: int, growth: int, *, eps: float, rngs: nnx.Rngs):
        middle = BOTTLENECK * growth
        self.norm1 = convolutions.BatchNorm(in_dim, eps=eps)
        self.conv1 = convolutions.Conv(in_dim, middle, kernel=1, kernel_init=he_normal(), rngs=rngs)
        self.norm2 = convolutions.BatchNorm(middle, eps=eps)
        self.conv2 = convolutions.Conv(middle, growth, kernel=3, kernel_init=he_normal(), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.conv1(jax.nn.relu(self.norm1(x)))
        return self.conv2(jax.nn.relu(self.norm2(x)))


class DenseBlock(nnx.Module):
    def __init__(self, in_dim: int, growth: int, depth: int, *, eps: float, rngs: nnx.Rngs):
        self.depth = depth
        for i in range(depth):
            setattr(self, f"denselayer{i + 1}", DenseLayer(in_dim + i * growth, growth, eps=eps, rngs=rngs))

    def __call__(self, x: Array) -> tuple[Array, list[Array]]:
        added: list[Array] = []
        for i in range(self.depth):
            new = sequence.apply(getattr(self, f"denselayer{i + 1}"), x)
            x = jnp.concatenate([x, new], axis=-1)
            added.append(new)
        return x, added


class Transition(nnx.Module):
    def __init__(self, in_dim: int, *, eps: float, rngs: nnx.Rngs):
        self.norm = convolutions.BatchNorm(in_dim, eps=eps)
        self.conv = convolutions.Conv(in_dim, in_dim // 2, kernel=1, kernel_init=he_normal(), rngs=rngs)
        self.pool = pools.AveragePool(2)

    def __call__(self, x: Array) -> Array:
        # An odd last row or column is left out, as in PyTorch.
        x = jax.nn.relu(self.norm(x))[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        # A mean and a 1x1 convolution commute: the mean first makes the convolution four times cheaper.
        return self.conv(self.pool(x))


class Stem(nnx.Module):
    """7x7 convolution and max pool: [B, S, S, 3] -> [B, S / 4, S / 4, width]."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        self.conv = convolutions.Conv(3, width, kernel=7, stride=2, kernel_init=he_normal(), rngs=rngs)
        self.norm = convolutions.BatchNorm(width, eps=eps)
        self.pool = pools.MaxPool(window=3, stride=2, padding="symmetric", outside=-jnp.inf)

    def __call__(self, x: Array) -> Array:
        return self.pool(jax.nn.relu(self.norm(self.conv(x))))


class DenseNet(nnx.Module):
    def __init__(self, config: DenseNetConfig, rngs: nnx.Rngs):
        eps = config.bn_eps
        self.stem = Stem(config.stem_width, eps=eps, rngs=rngs)
        in_dim = config.stem_width
        for i, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), 1):
            setattr(self, f"denseblock{i}", DenseBlock(in_dim, config.growth, depth, eps=eps, rngs=rngs))
            if i < len(config.depths):
                setattr(self, f"transition{i}", Transition(width, eps=eps, rngs=rngs))
            in_dim = width // 2
        self.norm5 = convolutions.BatchNorm(config.embed_dim, eps=eps)
        self.depth = len(config.depths)

    def blocks(self, x: Float[Array, "B H W C"], last: int) -> tuple[list[Array], dict[str, Array]]:
        """The outputs of the blocks up to index `last`, and the stages.

        The network's last block: after norm5 and ReLU.
        """
        outputs: list[Array] = []
        stages: dict[str, Array] = {}
        for i in range(1, last + 2):
            x, added = getattr(self, f"denseblock{i}")(x)
            stages |= {f"denseblock{i}.{j}": new for j, new in enumerate(added)}
            if i == self.depth:
                x = stages["norm5"] = jax.nn.relu(self.norm5(x))
            outputs.append(x)
            if i < min(self.depth, last + 1):
                x = stages[f"transition{i}"] = getattr(self, f"transition{i}")(x)
        return outputs, stages

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        outputs, stages = self.blocks(stem, self.depth - 1)
        features = jnp.mean(outputs[-1], axis=(1, 2))
        return features, {"stem": stem, **stages, "pooled": features}


def dense(
    tower: DenseNet, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    outputs, _ = tower.blocks(tower.stem(images), stages[-1])
    return [outputs[i] for i in stages]


def narrow(config: DenseNetConfig) -> DenseNetConfig:
    depths = (2, 3, 2, 3)
    sizes = {"image_size": 96, "stem_width": 16, "growth": 8, "depths": depths}
    return dataclasses.replace(config, **sizes, embed_dim=widths_of(16, 8, depths)[-1])


FAMILY = Family(
    name="densenet",
    tower="vision",
    config=DenseNetConfig,
    build=DenseNet,
    narrow=narrow,
    depth=lambda config: len(config.depths),
    dense=dense,
)
