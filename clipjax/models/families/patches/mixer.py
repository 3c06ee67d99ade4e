"""MLPs that mix tokens: MLP-Mixer, timm's gated gMixer, ResMLP and gMLP.

Sources: Tolstikhin et al. 2021 (arXiv 2105.01601), Touvron et al. 2021 (arXiv 2105.03404), Liu et al. 2021
(arXiv 2105.08050); timm 1.0 `mlp_mixer.MlpMixer`.
Differences: tokens are the first axis, [N, B, D], so that mixing them is a plain matrix product; the halves
of a gated layer are two layers.

Params (norm in ResMLP: [alpha, beta]):
    patch_embed/{kernel [P,P,3,D], bias}           [stem.proj]
    ln_post/norm                                   [norm]
and the blocks, with N tokens, T = token_width and M = mlp_width:
    "mixer":  blocks/{ln_1,ln_2}/norm              [norm1, norm2]
              blocks/tokens/{c_fc [N,T], c_proj [T,N]}/{kernel,bias}      [mlp_tokens.fc1, fc2]
              blocks/channels/{c_fc [D,M], c_proj [M,D]}/{kernel,bias}    [mlp_channels.fc1, fc2]
    "gmixer": the same, with {value,gate}/{kernel,bias} for c_fc          [halves of fc1]
    "resmlp": as "mixer", with
              blocks/tokens/{kernel [N,N], bias}   [linear_tokens]
              blocks/{ls_1,ls_2}/scale             [ls1, ls2]
    "gmlp":   blocks/ln/norm                       [norm]
              blocks/channels/{value,gate}/{kernel [D,M], bias}           [halves of mlp_channels.fc1]
              blocks/channels/ln/norm              [mlp_channels.gate.norm]
              blocks/channels/tokens/{kernel [N,N], bias}                 [mlp_channels.gate.proj]
              blocks/channels/c_proj/{kernel [M,D], bias}                 [mlp_channels.fc2]
Stages: patch_embed, blocks.0 ..., pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family
from clipjax.models.families.patches.vit import PatchEmbed
from clipjax.models.modules import layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import full, normal, ones, xavier_uniform

LAYER_SCALE_INIT = 1e-5  # of timm's resmlp_24_224
_TINY = normal(1e-6)  # of biases, and of gates, which start open


@dataclass(frozen=True)
class MixerConfig:
    """Sizes in pixels and channels.

    Attributes:
        block: MLP-Mixer's, gMixer's (gated MLPs), ResMLP's (affine layers as norms, one matrix over tokens,
            LayerScale) or gMLP's (one branch, gated by mixed tokens).
        token_width: hidden width over tokens, as the second matrix reads it; 0 with "resmlp", "gmlp".
        mlp_width: hidden width over channels, as the second matrix reads it.
        ln_eps: 0 with "resmlp".
        gate_eps: for the LayerNorm inside a "gmlp" block; else 0.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    block: Literal["mixer", "gmixer", "resmlp", "gmlp"]
    token_width: int
    mlp_width: int
    activation: Literal["gelu", "silu"]
    ln_eps: float
    gate_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, self.patch_size, "patch_size")
        if self.embed_dim != self.width:
            raise ValueError(f"embed_dim {self.embed_dim} is not the width, {self.width}")
        present = {
            "token_width": self.block in ("mixer", "gmixer"),
            "ln_eps": self.block != "resmlp",
            "gate_eps": self.block == "gmlp",
        }
        for name, has in present.items():
            if (getattr(self, name) > 0) != has:
                raise ValueError(f"block {self.block!r} needs {name} {'above 0' if has else '0'}")

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class TokenLinear(layers.Linear):
    """A linear layer over the first axis. It means one form in every mode, not those of `Linear`."""

    # No norm is in its product: it never reads `Normalised` rows.
    def __call__(self, x: Float[Array, "N B D"]) -> Float[Array, "M B D"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert self.bias is not None
        return jnp.tensordot(self.kernel[...], x, axes=(0, 0)) + self.bias[...][:, None, None]


class Affine(nnx.Module):
    """ResMLP's "norm"."""

    def __init__(self, dim: int):
        self.scale = nnx.Param(full((dim,), 1.0))
        self.bias = nnx.Param(full((dim,), 0.0))

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        return x * self.scale[...] + self.bias[...]


def norm(config: MixerConfig) -> layers.LayerNorm | Affine:
    return (
        Affine(config.width)
        if config.block == "resmlp"
        else layers.LayerNorm(config.width, eps=config.ln_eps)
    )


def linear(kind: type[layers.Linear], in_dim: int, out_dim: int, rngs: nnx.Rngs) -> layers.Linear:
    return kind(in_dim, out_dim, kernel_init=xavier_uniform(), bias_init=_TINY, rngs=rngs)


def gate(kind: type[layers.Linear], in_dim: int, out_dim: int, rngs: nnx.Rngs) -> layers.Linear:
    return kind(in_dim, out_dim, kernel_init=_TINY, bias_init=ones, rngs=rngs)


class Mlp(nnx.Module):
    def __init__(self, kind: type[layers.Linear], dim: int, width: int, config: MixerConfig, rngs: nnx.Rngs):
        self.gated = config.block == "gmixer"
        if self.gated:
            self.value, self.gate = linear(kind, dim, width, rngs), gate(kind, dim, width, rngs)
        else:
            self.c_fc = linear(kind, dim, width, rngs)
        self.c_proj = linear(kind, width, dim, rngs)
        self.activation = layers.ActivationLayer(config.activation)

    def __call__(self, x: Float[Array, "*tokens D"]) -> Float[Array, "*tokens D"]:
        if self.gated:
            return self.c_proj(self.value(x) * self.activation(self.gate(x)))
        return self.c_proj(self.activation(self.c_fc(x)))


class SpatialGate(nnx.Module):
    def __init__(self, config: MixerConfig, rngs: nnx.Rngs):
        c = config
        self.value = linear(layers.Linear, c.width, c.mlp_width, rngs)
        self.gate = linear(layers.Linear, c.width, c.mlp_width, rngs)
        self.ln = layers.LayerNorm(c.mlp_width, eps=c.gate_eps)
        self.tokens = gate(TokenLinear, c.tokens, c.tokens, rngs)
        self.c_proj = linear(layers.Linear, c.mlp_width, c.width, rngs)
        self.activation = layers.ActivationLayer(c.activation)

    def __call__(self, x: Float[Array, "N B D"]) -> Float[Array, "N B D"]:
        mixed = self.tokens(self.ln(self.activation(self.gate(x))))
        return self.c_proj(self.activation(self.value(x)) * mixed)


class MixerBlock(Layer):
    def __init__(self, config: MixerConfig, rngs: nnx.Rngs):
        c, scaled = config, config.block == "resmlp"
        self.ln_1 = norm(c)
        self.tokens = (
            linear(TokenLinear, c.tokens, c.tokens, rngs)
            if scaled
            else Mlp(TokenLinear, c.tokens, c.token_width, c, rngs)
        )
        self.ls_1 = layers.LayerScale(c.width, init=LAYER_SCALE_INIT) if scaled else None
        self.ln_2 = norm(c)
        self.channels = Mlp(layers.Linear, c.width, c.mlp_width, c, rngs)
        self.ls_2 = layers.LayerScale(c.width, init=LAYER_SCALE_INIT) if scaled else None

    def __call__(self, x: Float[Array, "N B D"]) -> Float[Array, "N B D"]:
        mixed = self.tokens(self.ln_1(x))
        x = x + (mixed if self.ls_1 is None else self.ls_1(mixed))
        mixed = self.channels(self.ln_2(x))
        return x + (mixed if self.ls_2 is None else self.ls_2(mixed))


class GatingBlock(Layer):
    def __init__(self, config: MixerConfig, rngs: nnx.Rngs):
        self.ln = norm(config)
        self.channels = SpatialGate(config, rngs)

    def __call__(self, x: Float[Array, "N B D"]) -> Float[Array, "N B D"]:
        return x + self.channels(self.ln(x))


class Mixer(nnx.Module):
    def __init__(self, config: MixerConfig, rngs: nnx.Rngs):
        c = config
        self.patch_embed = PatchEmbed(c.patch_size, c.width, use_bias=True, rngs=rngs)
        block = GatingBlock if c.block == "gmlp" else MixerBlock
        self.blocks = sequence.stack(lambda rngs: block(c, rngs), c.layers, rngs)
        self.ln_post = norm(c)

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        patches = self.patch_embed(images)
        x, outputs = sequence.scan(self.blocks, tokens_first(patches), capture=capture)
        features = self.pooled(x)
        if outputs is None:
            return features, {}
        stages = {"patch_embed": patches}
        stages |= {f"blocks.{i}": output.swapaxes(0, 1) for i, output in enumerate(outputs)}
        return features, stages | {"pooled": features}

    def pooled(self, x: Float[Array, "N B D"]) -> Float[Array, "B D"]:
        return self.ln_post(x).mean(axis=0)


def tokens_first(patches: Float[Array, "B h w D"]) -> Float[Array, "N B D"]:
    batch, *_, width = patches.shape
    return patches.reshape(batch, -1, width).swapaxes(0, 1)


def dense(
    tower: Mixer, images: Float[Array, "B H W 3"], blocks: Sequence[int]
) -> list[Float[Array, "B h w D"]]:
    patches = tower.patch_embed(images)
    outputs = sequence.scan_at(tower.blocks, tokens_first(patches), at=blocks)
    return [x.swapaxes(0, 1).reshape(patches.shape) for x in outputs]


def narrow(config: MixerConfig) -> MixerConfig:
    c, width = config, 32
    sizes = {name: getattr(c, name) * width // c.width for name in ("token_width", "mlp_width")}
    return dataclasses.replace(
        c, image_size=3 * c.patch_size, width=width, layers=2, embed_dim=width, **sizes
    )


FAMILY = Family(
    name="mixer",
    tower="vision",
    config=MixerConfig,
    build=Mixer,
    narrow=narrow,
    dense=dense,
    depth=lambda config: config.layers,
    patch=lambda config: config.patch_size,
    one_size="its layers over tokens are as wide as its images have patches",
    cpu_options=layers.CPU_OPTIONS,
)
