"""VGG, with and without BatchNorm.

Sources: Simonyan and Zisserman 2014 (arXiv 1409.1556); timm 1.0 `vgg.VGG` with `ConvMlp`.

Params; n is the index in timm's `features`, counting activations and pools:
    conv{n}/{kernel [3,3,I,O],bias}   bn{n}/{scale,bias,mean,var}   [features.n]
    fc1/{kernel [7,7,C,H],bias}   fc2/{kernel [1,1,H,E],bias}       [pre_logits.fc1, .fc2]
    head/{kernel,bias}   [head.fc]
Stages: features.n of each ReLU, fc1, fc2, pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, pools
from clipjax.models.modules.initializers import variance_scaling

_FAN_OUT = variance_scaling(2.0, "fan_out", "normal")
WINDOW = 7  # of fc1: the side of the last map at 224 pixels


@dataclass(frozen=True)
class VGGConfig:
    """Group i has `depths[i]` convolutions of `widths[i]` channels and a max pool."""

    image_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    batch_norm: bool
    bn_eps: float
    hidden: int
    embed_dim: int

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or min(*self.depths, *self.widths) < 1:
            raise ValueError(
                f"depths {list(self.depths)} and widths {list(self.widths)} are not positive, one a group"
            )
        least = WINDOW * 2 ** len(self.depths)
        if self.image_size < least:
            raise ValueError(
                f"image_size {self.image_size} is less than {least}: fc1's {WINDOW}x{WINDOW} window would "
                "not fit into the last map"
            )

    @property
    def groups(self) -> list[list[int]]:
        """The convolutions' indices in timm's `features`."""
        groups, n, step = [], 0, 3 if self.batch_norm else 2
        for depth in self.depths:
            groups.append([n + i * step for i in range(depth)])
            n += depth * step + 1
        return groups


class VGG(nnx.Module):
    def __init__(self, config: VGGConfig, rngs: nnx.Rngs):
        c, in_dim = config, 3
        for width, group in zip(c.widths, c.groups, strict=True):
            for n in group:
                conv = convolutions.Conv(
                    in_dim, width, kernel=3, use_bias=True, kernel_init=_FAN_OUT, rngs=rngs
                )
                setattr(self, f"conv{n}", conv)
                if c.batch_norm:
                    setattr(self, f"bn{n + 1}", convolutions.BatchNorm(width, eps=c.bn_eps))
                in_dim = width
        options: Any = {"padding": "none", "use_bias": True, "kernel_init": _FAN_OUT, "rngs": rngs}
        self.fc1 = convolutions.Conv(in_dim, c.hidden, kernel=WINDOW, **options)
        self.fc2 = convolutions.Conv(c.hidden, c.embed_dim, kernel=1, **options)
        self.pool = pools.MaxPool(window=2, stride=2, padding="none", outside=-jnp.inf)
        self.config = c

    def groups(self, x: Array, last: int) -> tuple[list[Array], dict[str, Array]]:
        """The outputs of the groups up to index `last`, before their pools; and the stages.

        Index len(depths) is the last group's output after its pool.
        """
        outputs: list[Array] = []
        stages: dict[str, Array] = {}
        for i in range(last + 1):
            for n in self.config.groups[i] if i < len(self.config.depths) else ():
                x = getattr(self, f"conv{n}")(x)
                x = getattr(self, f"bn{n + 1}")(x) if self.config.batch_norm else x
                x = stages[f"features.{n + 1 + self.config.batch_norm}"] = jax.nn.relu(x)
            outputs.append(x)
            if i < len(self.config.depths):
                x = self.pool(x)
        return outputs, stages

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        outputs, stages = self.groups(images, len(self.config.depths))
        fc1 = jax.nn.relu(self.fc1(outputs[-1]))
        fc2 = jax.nn.relu(self.fc2(fc1))
        features = jnp.mean(fc2, axis=(1, 2))
        return features, {**stages, "fc1": fc1, "fc2": fc2, "pooled": features}


def dense(
    tower: VGG, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    outputs, _ = tower.groups(images, stages[-1])
    return [outputs[i] for i in stages]


def narrow(config: VGGConfig) -> VGGConfig:
    """A small tower for tests. Its embed_dim stays, since timm's is fixed."""
    widths, depths = (8, 16, 32, 32, 32), (1, 2, 1, 1, 1)
    size = WINDOW * 2 ** len(widths)
    return dataclasses.replace(config, image_size=size, widths=widths, depths=depths, hidden=64)


FAMILY = Family(
    name="vgg",
    tower="vision",
    config=VGGConfig,
    build=VGG,
    narrow=narrow,
    depth=lambda config: len(config.depths) + 1,
    dense=dense,
)
