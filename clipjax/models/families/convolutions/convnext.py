"""ConvNeXt and ConvNeXt V2, as an image tower of CLIP and as a classifier.

Sources: Liu et al. 2022 (arXiv 2201.03545); Woo et al. 2023 (arXiv 2301.00808) for V2; timm 1.0
`convnext.ConvNeXt` with `NormMlpClassifierHead`, open_clip 3.3 `timm_model.TimmModel` for the projections.

Params:
    stem/conv/{kernel [4,4,3,C],bias}   stem/norm            [stem.0, stem.1]
    stage{0..3}/downsample/norm         [stages.i.downsample.0]; not in stage0
    stage{0..3}/downsample/conv/{kernel [2,2,I,C],bias}      [stages.i.downsample.1]
    stage{0..3}/blocks/...              [stages.i.blocks.j]
        conv/{kernel [7,7,1,C],bias}                         [conv_dw]
        norm   mlp/{c_fc,c_proj}/{kernel,bias}               [norm, mlp.fc1, mlp.fc2]
        ls/scale [C]                    not with grn         [gamma]
        mlp/grn/{scale,bias} [4C]       with grn             [mlp.grn.weight, mlp.grn.bias]
    head/norm
    head/proj/kernel [C,E]              projection "linear"; open_clip's
    head/c_fc/{kernel [C,2E],bias}      projection "mlp"; open_clip's [head.mlp.fc1]
    head/c_proj/kernel [2E,E]           projection "mlp"; open_clip's [head.mlp.fc2]
    head/c_fc/{kernel [C,E],bias}       projection "hidden"  [head.pre_logits.fc]
    head/{kernel,bias}                                       [head.fc]
Stages: stem, stages.0.0, ..., stages.3.2, pooled (after its norm), projected (unless projection is "none").
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family
from clipjax.models.modules import convolutions, layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import full, normal
from clipjax.models.modules.stages import dense, run_stages

PATCH = 4  # of the stem
KERNEL = 7  # of a block's depthwise convolution
EXPANSION = 4  # of a block's MLP
REDUCTION = 32  # image pixels per cell of the last map
LAYER_SCALE = 1e-6  # at initialisation
GRN_EPS = 1e-6

# timm's `_init_weights`, for every kernel of the trunk; biases are zero.
_INIT = normal(0.02)


@dataclass(frozen=True)
class ConvNeXtConfig:
    """projection of the normalised features: "linear": a matrix; "mlp": a layer of 2 embed_dim with bias, the
    activation, a matrix; "hidden": a layer with bias and the activation.

    grn: V2: a global response normalization in each block's MLP in place of its layer scale.
    """

    image_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    activation: layers.Activation
    ln_eps: float
    projection: Literal["none", "linear", "mlp", "hidden"]
    embed_dim: int
    grn: Literal[True] | None = None

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, REDUCTION)
        for name, values in (("widths", self.widths), ("depths", self.depths)):
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} {list(values)} are not four positive numbers")
        if self.projection == "none" and self.embed_dim != self.widths[-1]:
            raise ValueError(
                f'with projection "none" embed_dim {self.embed_dim} must be the last width, {self.widths[-1]}'
            )


class Stem(nnx.Module):
    """[B, S, S, 3] -> [B, S / 4, S / 4, width]."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        self.conv = patch_conv(3, width, size=PATCH, rngs=rngs)
        self.norm = layers.LayerNorm(width, eps=eps)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class Downsample(nnx.Module):
    """[B, H, W, in_dim] -> [B, H / 2, W / 2, out_dim]."""

    def __init__(self, in_dim: int, out_dim: int, *, eps: float, rngs: nnx.Rngs):
        self.norm = layers.LayerNorm(in_dim, eps=eps)
        self.conv = patch_conv(in_dim, out_dim, size=2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(self.norm(x))


def patch_conv(in_dim: int, out_dim: int, *, size: int, rngs: nnx.Rngs) -> convolutions.Conv:
    return convolutions.Conv(
        in_dim, out_dim, kernel=size, stride=size, padding="none", use_bias=True, kernel_init=_INIT, rngs=rngs
    )


class GlobalResponseNorm(nnx.Module):
    """Scales each channel by its norm over an image's cells, as a share of the channels' mean norm.

    Woo et al. 2023, section 4; computed in float32.
    """

    def __init__(self, dim: int):
        self.scale = nnx.Param(full((dim,), 0.0))
        self.bias = nnx.Param(full((dim,), 0.0))

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        wide = x.astype(jnp.float32)
        square = jnp.square(wide).sum(axis=(1, 2), keepdims=True)
        some = square > 0  # the root has no gradient at 0
        norm = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
        share = norm / (norm.mean(axis=-1, keepdims=True) + GRN_EPS)
        scale, bias = (each[...].astype(jnp.float32) for each in (self.scale, self.bias))
        return (wide + (bias + scale * (wide * share))).astype(x.dtype)


class NormedMlp(layers.Mlp):
    def __init__(self, dim: int, width: int, *, activation: str, rngs: nnx.Rngs):
        super().__init__(dim, width, activation=activation, fc_init=_INIT, proj_init=_INIT, rngs=rngs)
        self.grn = GlobalResponseNorm(width)

    # No norm is in its products: they never read `Normalised` rows.
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.c_proj(self.grn(self.activation(self.c_fc(x))))


class Block(Layer):
    def __init__(self, dim: int, *, activation: str, eps: float, grn: bool, rngs: nnx.Rngs):
        self.conv = convolutions.Conv(
            dim, dim, kernel=KERNEL, groups=dim, use_bias=True, kernel_init=_INIT, rngs=rngs
        )
        self.norm = layers.LayerNorm(dim, eps=eps)
        mlp = NormedMlp if grn else partial(layers.Mlp, fc_init=_INIT, proj_init=_INIT)
        self.mlp = mlp(dim, EXPANSION * dim, activation=activation, rngs=rngs)
        self.ls = None if grn else layers.LayerScale(dim, init=LAYER_SCALE)

    def __call__(self, x: Array) -> Array:
        branch = self.mlp(self.norm(self.conv(x)))
        return x + (branch if self.ls is None else self.ls(branch))


class Stage(nnx.Module):
    def __init__(
        self, in_dim: int, dim: int, depth: int, config: ConvNeXtConfig, *, first: bool, rngs: nnx.Rngs
    ):
        self.downsample = None if first else Downsample(in_dim, dim, eps=config.ln_eps, rngs=rngs)
        flags = {"activation": config.activation, "eps": config.ln_eps, "grn": bool(config.grn)}
        block = partial(Block, dim, **flags)
        self.blocks = sequence.stack(lambda rngs: block(rngs=rngs), depth, rngs)

    def __call__(self, x: Array, capture: bool) -> tuple[Array, Array | None]:
        x = x if self.downsample is None else self.downsample(x)
        return sequence.scan(self.blocks, x, capture=capture)


class Head(nnx.Module):
    """The last map [B, h, w, C] -> pooled [B, C] and projected [B, E]."""

    def __init__(self, config: ConvNeXtConfig, *, rngs: nnx.Rngs):
        c, dim = config, config.widths[-1]
        self.norm = layers.LayerNorm(dim, eps=c.ln_eps)
        linear, kind = partial(layers.Linear, rngs=rngs), c.projection
        hidden = 2 * c.embed_dim if kind == "mlp" else c.embed_dim
        self.proj = linear(dim, c.embed_dim, use_bias=False) if kind == "linear" else None
        self.c_fc = linear(dim, hidden) if kind in ("mlp", "hidden") else None
        self.c_proj = linear(hidden, c.embed_dim, use_bias=False) if kind == "mlp" else None
        self.activation = layers.ActivationLayer(c.activation)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        # The norm comes after the mean: what timm calls head_norm_first=False.
        pooled = features = self.norm(jnp.mean(x, axis=(1, 2)))
        if self.c_fc is not None:
            features = self.activation(self.c_fc(features))
        last = self.proj if self.c_proj is None else self.c_proj
        return pooled, features if last is None else last(features)


class ConvNeXt(nnx.Module):
    def __init__(self, config: ConvNeXtConfig, rngs: nnx.Rngs):
        c = config
        self.stem = Stem(c.widths[0], eps=c.ln_eps, rngs=rngs)
        in_dim = c.widths[0]
        for i, (dim, depth) in enumerate(zip(c.widths, c.depths, strict=True)):
            setattr(self, f"stage{i}", Stage(in_dim, dim, depth, c, first=i == 0, rngs=rngs))
            in_dim = dim
        self.head = Head(c, rngs=rngs)
        self.projects = c.projection != "none"

    @property
    def stages(self) -> dict[str, Any]:
        return {f"stages.{i}": getattr(self, f"stage{i}") for i in range(4)}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        pooled, features = self.head(x)
        captured = {"stem": stem, **outputs, "pooled": pooled}
        return features, captured | ({"projected": features} if self.projects else {})


def narrow(config: ConvNeXtConfig) -> ConvNeXtConfig:
    widths = (16, 32, 48, 80)
    embed_dim = widths[-1] if config.projection == "none" else 96
    sizes = {"image_size": 3 * REDUCTION, "widths": widths, "depths": (2, 1, 3, 2)}
    return dataclasses.replace(config, **sizes, embed_dim=embed_dim)


FAMILY = Family(
    name="convnext",
    tower="vision",
    config=ConvNeXtConfig,
    build=ConvNeXt,
    narrow=narrow,
    depth=lambda config: len(config.widths),
    dense=dense,
)
