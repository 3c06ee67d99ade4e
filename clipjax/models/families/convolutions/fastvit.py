"""FastViT as the image tower of MobileCLIP and MobileCLIP 2 (their MCi0 to MCi4).

Sources: Vasu et al. 2023 (arXiv 2303.14189) section 3; Vasu et al. 2024 (arXiv 2311.17049) section 4; timm
1.0 `fastvit.FastVit` with all branches of training, which the released weights keep.

A RepMixer adds scale * (mixer(x) - norm(x)), where `norm` is a BatchNorm of its own. Stages of attention
begin with a depthwise 7x7 convolution as position encoding.

Params (each stem.0, mixer, ... below is a `MobileOne`: identity/bn where shapes allow, conv/{conv/kernel,bn},
in some also scale/{conv/kernel [1,1,...],bn} and se/{fc1,fc2}/{kernel,bias}):
    stem/{expand,reduce,mix}/...                            [stem.0, stem.1, stem.2]
    stage{1..}/downsample/large/{conv/kernel [7,7,1,C],bn}  [stages.i.downsample.proj.0.large_conv]
    stage{1..}/downsample/small/{conv/kernel [3,3,1,C],bn}  [stages.i.downsample.proj.0.small_conv]
    stage{1..}/downsample/se/...   in some                  [stages.i.downsample.proj.0.se]
    stage{1..}/downsample/mix/...                           [stages.i.downsample.proj.1]
    stage{0..}/position/{kernel [7,7,1,C],bias} attention   [stages.i.pos_emb.pos_enc]
    stage{0..}/blocks/mixer/..., norm/...   RepMixer        [stages.i.blocks.j.token_mixer.{mixer,norm}]
    stage{0..}/blocks/ls_mixer/scale   RepMixer             [stages.i.blocks.j.token_mixer.layer_scale.gamma]
    stage{0..}/blocks/ls_mlp/scale     RepMixer             [stages.i.blocks.j.layer_scale.gamma]
    stage{0..}/blocks/norm, attn/{q,k,v}/kernel, attn/out/{kernel,bias}, ls_1/scale, ls_2/scale   attention
    stage{0..}/blocks/mlp/{conv/{conv/kernel [7,7,1,C],bn},c_fc,c_proj/{kernel,bias}}
    final/...                                               [final_conv]
    proj/{kernel [2C,E],bias}                               [head.fc]
Stages: stem, stages.0.0, ..., final (a map), pooled, projected.
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
from clipjax.models.modules import attention, convolutions, layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal
from clipjax.models.modules.maps import SqueezeExcite
from clipjax.models.modules.stages import dense, run_stages

MIXER, LARGE, SMALL = 3, 7, 3  # sides of kernels
HEAD = 32  # channels of a head
FINAL_RATIO = 2  # channels of the last map, as a multiple of the last stage's
STEM_REDUCTION = 4
LAYER_SCALE = 1e-5  # at initialisation
_INIT = normal(0.02)  # of matrices


@dataclass(frozen=True)
class FastViTConfig:
    """One entry a stage in `widths`, `depths`, `mixers` and `squeezed`.

    Attributes:
        mlp_ratio: hidden channels of an MLP, as a multiple of the stage's.
        squeezed: a squeeze-excitation in the stage's downsampling; the first stage has none.
        stem_scale: the stem's 3x3 convolutions have branches of 1x1.
        attn_norm: what comes before attention.
        eps: of every norm.
    """

    image_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mixers: tuple[Literal["repmixer", "attention"], ...]
    mlp_ratio: int
    squeezed: tuple[bool, ...]
    stem_scale: bool
    attn_norm: Literal["batch", "layer"]
    activation: Literal["gelu"]
    eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        lengths = {len(each) for each in (self.widths, self.depths, self.mixers, self.squeezed)}
        if len(lengths) != 1 or not self.widths or min(self.widths + self.depths) < 1:
            raise ValueError("widths, depths, mixers and squeezed have one entry a stage, above 0")
        for width, mixer in zip(self.widths, self.mixers):
            if mixer == "attention" and width % HEAD:
                raise ValueError(f"attention needs a multiple of {HEAD} channels, not {width}")
        multiple_of("image_size", self.image_size, self.reduction)

    @property
    def reduction(self) -> int:
        """Pixels along a side for each cell of the last map."""
        return STEM_REDUCTION * 2 ** (len(self.widths) - 1)


def multiple_of_8(channels: float) -> int:
    """The nearest one, halves upwards, at least 8: timm's `make_divisible` without its limit."""
    return max(8, int(channels + 4) // 8 * 8)


class ConvNorm(nnx.Module):
    """`depthwise` with more outputs than inputs: consecutive outputs share an input."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        eps: float,
        rngs: nnx.Rngs,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
    ):
        self.times = out_dim // in_dim if depthwise else 1
        groups = out_dim if depthwise else 1
        ins = out_dim if depthwise else in_dim
        self.conv = convolutions.Conv(ins, out_dim, kernel=kernel, stride=stride, groups=groups, rngs=rngs)
        self.bn = convolutions.BatchNorm(out_dim, eps=eps)

    def __call__(self, x: Array) -> Array:
        x = x if self.times == 1 else jnp.repeat(x, self.times, axis=-1)
        return self.bn(self.conv(x))


class Norm(nnx.Module):
    """A BatchNorm as a branch."""

    def __init__(self, dim: int, *, eps: float):
        self.bn = convolutions.BatchNorm(dim, eps=eps)

    def __call__(self, x: Array) -> Array:
        return self.bn(x)


class MobileOne(nnx.Module):
    """The sum of up to three branches, then squeeze-excitation and activation (arXiv 2206.04040).

    scale: a branch of 1x1; `conv`: one of `kernel`; the identity is there if shapes allow.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        eps: float,
        activation: str | None,
        rngs: nnx.Rngs,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        conv: bool = True,
        scale: bool = False,
        squeezed: int = 0,
    ):
        branch = partial(ConvNorm, in_dim, out_dim, stride=stride, depthwise=depthwise, eps=eps, rngs=rngs)
        self.identity = Norm(out_dim, eps=eps) if in_dim == out_dim and stride == 1 else None
        self.conv = branch(kernel=kernel) if conv else None
        self.scale = branch() if scale else None
        self.se = squeeze(out_dim, squeezed, rngs) if squeezed else None
        self.activation = None if activation is None else layers.ActivationLayer(activation)

    def __call__(self, x: Array) -> Array:
        branches = [each for each in (self.scale, self.identity, self.conv) if each is not None]
        y = branches[0](x)
        for branch in branches[1:]:
            y = y + branch(x)
        y = y if self.se is None else self.se(y)
        return y if self.activation is None else self.activation(y)


def squeeze(dim: int, width: int, rngs: nnx.Rngs) -> SqueezeExcite:
    return SqueezeExcite(dim, width, activation="relu", gate="sigmoid", rngs=rngs)


class Stem(nnx.Module):
    """[B, S, S, 3] -> [B, S / 4, S / 4, width]."""

    def __init__(self, config: FastViTConfig, rngs: nnx.Rngs):
        width = config.widths[0]
        one = partial(MobileOne, eps=config.eps, activation=config.activation, rngs=rngs)
        scale = config.stem_scale
        self.expand = one(3, width, kernel=3, stride=2, scale=scale)
        self.reduce = one(width, width, kernel=3, stride=2, depthwise=True, scale=scale)
        self.mix = one(width, width)

    def __call__(self, x: Array) -> Array:
        return self.mix(self.reduce(self.expand(x)))


class Downsample(Layer):
    """[B, H, W, in_dim] -> [B, H / 2, W / 2, out_dim]."""

    def __init__(self, in_dim: int, out_dim: int, config: FastViTConfig, *, squeezed: bool, rngs: nnx.Rngs):
        conv = partial(ConvNorm, in_dim, out_dim, stride=2, depthwise=True, eps=config.eps, rngs=rngs)
        self.large = conv(kernel=LARGE)
        self.small = conv(kernel=SMALL)
        self.se = squeeze(out_dim, multiple_of_8(out_dim / 4), rngs) if squeezed else None
        self.mix = MobileOne(out_dim, out_dim, eps=config.eps, activation=config.activation, rngs=rngs)
        self.activation = layers.ActivationLayer(config.activation)

    def __call__(self, x: Array) -> Array:
        y = self.large(x) + self.small(x)
        y = y if self.se is None else self.se(y)
        return self.mix(self.activation(y))


class Mlp(nnx.Module):
    """A depthwise 7x7 convolution with BatchNorm, then two matrices."""

    def __init__(self, dim: int, config: FastViTConfig, rngs: nnx.Rngs):
        hidden = dim * config.mlp_ratio
        self.conv = ConvNorm(dim, dim, kernel=LARGE, depthwise=True, eps=config.eps, rngs=rngs)
        self.c_fc = layers.Linear(dim, hidden, kernel_init=_INIT, rngs=rngs)
        self.c_proj = layers.Linear(hidden, dim, kernel_init=_INIT, rngs=rngs)
        self.activation = layers.ActivationLayer(config.activation)

    def __call__(self, x: Array) -> Array:
        return self.c_proj(self.activation(self.c_fc(self.conv(x))))


class RepMixerBlock(Layer):
    def __init__(self, dim: int, config: FastViTConfig, rngs: nnx.Rngs):
        one = partial(MobileOne, dim, dim, eps=config.eps, activation=None, rngs=rngs)
        self.mixer = one(kernel=MIXER, depthwise=True, scale=True)
        self.norm = one(conv=False)
        self.ls_mixer = layers.LayerScale(dim, init=LAYER_SCALE)
        self.mlp = Mlp(dim, config, rngs)
        self.ls_mlp = layers.LayerScale(dim, init=LAYER_SCALE)

    def __call__(self, x: Array) -> Array:
        x = x + self.ls_mixer(self.mixer(x) - self.norm(x))
        return x + self.ls_mlp(self.mlp(x))


class Attention(nnx.Module):
    """Each cell of a map reads all cells."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        linear = partial(layers.Linear, dim, dim, kernel_init=_INIT, rngs=rngs)
        self.q, self.k, self.v = (linear(use_bias=False) for _ in range(3))
        self.out = linear()
        self.attend = attention.MultiHead(dim // HEAD)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        cells = x.reshape(x.shape[0], -1, x.shape[-1])
        mixed = self.attend(self.q(cells), self.k(cells), self.v(cells))
        return self.out(mixed).reshape(x.shape)


class AttentionBlock(Layer):
    def __init__(self, dim: int, config: FastViTConfig, rngs: nnx.Rngs):
        batch = config.attn_norm == "batch"
        self.norm = Norm(dim, eps=config.eps) if batch else layers.LayerNorm(dim, eps=config.eps)
        self.attn = Attention(dim, rngs)
        self.ls_1 = layers.LayerScale(dim, init=LAYER_SCALE)
        self.mlp = Mlp(dim, config, rngs)
        self.ls_2 = layers.LayerScale(dim, init=LAYER_SCALE)

    def __call__(self, x: Array) -> Array:
        x = x + self.ls_1(self.attn(self.norm(x)))
        return x + self.ls_2(self.mlp(x))


class Stage(nnx.Module):
    def __init__(self, index: int, config: FastViTConfig, rngs: nnx.Rngs):
        c, dim, attends = config, config.widths[index], config.mixers[index] == "attention"
        self.downsample = (
            Downsample(c.widths[index - 1], dim, c, squeezed=c.squeezed[index], rngs=rngs) if index else None
        )
        position = {"kernel": LARGE, "groups": dim, "use_bias": True, "rngs": rngs}
        self.position = convolutions.Conv(dim, dim, **position) if attends else None
        block = AttentionBlock if attends else RepMixerBlock
        self.blocks = sequence.stack(lambda rngs: block(dim, c, rngs), c.depths[index], rngs)

    def __call__(self, x: Array, capture: bool) -> tuple[Array, Array | None]:
        if self.downsample is not None:
            x = sequence.apply(self.downsample, x)
        x = x if self.position is None else x + self.position(x)
        return sequence.scan(self.blocks, x, capture=capture)


class FastViT(nnx.Module):
    def __init__(self, config: FastViTConfig, rngs: nnx.Rngs):
        c, last = config, config.widths[-1]
        self.stem = Stem(c, rngs)
        for i in range(len(c.widths)):
            setattr(self, f"stage{i}", Stage(i, c, rngs))
        wide = FINAL_RATIO * last
        flags = {"depthwise": True, "scale": True, "squeezed": wide // 16, "activation": c.activation}
        self.final = MobileOne(last, wide, kernel=3, eps=c.eps, rngs=rngs, **flags)
        self.proj = layers.Linear(wide, c.embed_dim, kernel_init=_INIT, rngs=rngs)
        self.depth = len(c.widths)

    @property
    def stages(self) -> dict[str, Any]:
        return {f"stages.{i}": getattr(self, f"stage{i}") for i in range(self.depth)}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        final = self.final(x)
        pooled = final.mean(axis=(1, 2))
        features = self.proj(pooled)
        return features, {"stem": stem, **outputs, "final": final, "pooled": pooled, "projected": features}


def narrow(config: FastViTConfig) -> FastViTConfig:
    widths = tuple(width // 4 for width in config.widths)
    depths = tuple(min(depth, 2) for depth in config.depths)
    size = 2 * config.reduction
    return dataclasses.replace(config, image_size=size, widths=widths, depths=depths, embed_dim=96)


FAMILY = Family(
    name="fastvit",
    tower="vision",
    config=FastViTConfig,
    build=FastViT,
    narrow=narrow,
    depth=lambda config: len(config.widths),
    dense=dense,
)
