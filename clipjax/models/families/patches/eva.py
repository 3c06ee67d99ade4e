"""EVA and EVA-02: variants of the vision transformer.

Sources: Fang et al. 2022 (arXiv 2211.07636), Fang et al. 2023 (arXiv 2303.11331) section 2, Sun et al. 2023
(arXiv 2303.15389); timm 1.0 `eva.Eva`, which open_clip wraps. Names are those of vit.py.

    EVA01-g        pre-norm blocks, plain MLP
    EVA02-B, -L    pre-norm blocks, rotary positions, SwiGLU, norms inside attention and MLP
    EVA02-E        post-norm blocks, x + ln(branch(x)), plain MLP

Keys have no bias. Difference: rotations act on the halves of a head, not on neighbouring channels
(`in_halves`).

Params: patch_embed/{kernel [P,P,3,D],bias}, class_embedding [D], positional_embedding [N,D] with the class
token's first, blocks/{ln_1,ln_2}/{scale,bias}, blocks/attn/{q,v,out}/{kernel,bias}, blocks/attn/k/kernel,
blocks/mlp/{c_fc,c_proj}/{kernel,bias}, in some variants blocks/mlp/gate/{kernel,bias} and
blocks/{attn,mlp}/ln/{scale,bias}, ln_post/{scale,bias}, proj/{kernel [D,E],bias}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Positions, two_heads
from clipjax.models.families.patches.vit import PatchEmbed
from clipjax.models.modules import attention, layers, sequence, tokens
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal

ROPE_TEMPERATURE = 10000.0
INIT = normal(0.02)  # of every matrix, as timm draws it


@dataclass(frozen=True)
class EvaConfig:
    """Sizes in pixels and channels.

    Attributes:
        gated: activation(gate(x)) * c_fc(x) in the MLP: SwiGLU with "silu".
        norm: LayerNorms before ("pre") or after ("post") the branches.
        attn_norm: one more norm before the attention's last matrix (sub-LN).
        mlp_norm: one more norm before the MLP's last matrix (sub-LN).
        rope_grid: side of pretraining's patch grid, to which rotary positions are scaled; 0: none.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    gated: bool
    activation: Literal["gelu", "silu"]
    norm: Literal["pre", "post"]
    attn_norm: bool
    mlp_norm: bool
    rope_grid: int
    ln_eps: float
    pooling: Literal["class"]
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, self.patch_size, "patch_size")
        multiple_of("width", self.width, self.heads, "heads")
        if self.rope_grid and self.width // self.heads % 4:
            raise ValueError(f"rotary positions need heads of 4n channels, not {self.width // self.heads}")


# ------------------------------------------------------------------------------------ rotary positions


def rotary_tables(config: EvaConfig, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [N, head / 2] float32 of each token's angles, one per pair of channels.

    The first half of the pairs turns by the row, the second by the column; the class token does not turn. As
    timm's `RotaryEmbeddingCat`.
    """
    bands = config.width // config.heads // 4
    exponents = np.arange(bands, dtype=np.float32) / np.float32(bands)
    frequencies = 1 / np.float32(ROPE_TEMPERATURE) ** exponents
    down, across = (
        np.arange(side, dtype=np.float32) / np.float32(side) * np.float32(config.rope_grid)
        for side in (height, width)
    )
    rows, columns = np.meshgrid(down, across, indexing="ij")
    angles = np.stack([rows, columns], axis=-1)[..., None] * frequencies
    angles = np.concatenate([np.zeros((1, 2 * bands), np.float32), angles.reshape(height * width, -1)])
    return np.cos(angles), np.sin(angles)


def in_halves(linear: layers.Linear, x: Array, heads: int) -> Array:
    """linear(x), with each head's even channels before its odd ones: 0 1 2 3 becomes 0 2 1 3.

    A rotation pairs neighbours. Reordering the matrix's columns avoids shuffling activations; scores stay the
    same, since queries and keys share the order.
    """

    def ordered(y: Array) -> Array:
        return y.reshape(*y.shape[:-1], heads, -1, 2).swapaxes(-1, -2).reshape(y.shape)

    y = linear.times(x, ordered(linear.kernel[...]))
    return y if linear.bias is None else y + ordered(linear.bias[...])


def rotate(
    x: Float[Array, "B heads N head"], cos: Float[Array, "N pairs"], sin: Float[Array, "N pairs"]
) -> Float[Array, "B heads N head"]:
    """Turns each pair of channels (see `in_halves`) by its token's angle."""
    even, odd = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([even * cos - odd * sin, odd * cos + even * sin], axis=-1).astype(x.dtype)


# ------------------------------------------------------------------------------------------------ tower


class EvaAttention(nnx.Module):
    def __init__(self, config: EvaConfig, rngs: nnx.Rngs):
        dim = config.width
        self.q = layers.Linear(dim, dim, kernel_init=INIT, rngs=rngs)
        self.k = layers.Linear(dim, dim, kernel_init=INIT, use_bias=False, rngs=rngs)
        self.v = layers.Linear(dim, dim, kernel_init=INIT, rngs=rngs)
        self.ln = layers.LayerNorm(dim, eps=config.ln_eps) if config.attn_norm else None
        self.out = layers.Linear(dim, dim, kernel_init=INIT, rngs=rngs)
        self.attend = attention.MultiHead(config.heads)

    def __call__(self, x: Array, tables: tuple[Array, Array] | None) -> Array:
        if tables is None:
            mixed = self.attend(self.q(x), self.k(x), self.v(x))
        else:
            q, k = (in_halves(linear, x, self.attend.heads) for linear in (self.q, self.k))
            q, k, v = (self.attend.split(y) for y in (q, k, self.v(x)))
            mixed = self.attend.of_heads(rotate(q, *tables), rotate(k, *tables), v)
        return self.out(mixed if self.ln is None else self.ln(mixed))


class EvaMlp(nnx.Module):
    """norm_eps: of a norm before the last matrix; None: none."""

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        gated: bool,
        activation: str,
        norm_eps: float | None,
        rngs: nnx.Rngs,
    ):
        self.gate = layers.Linear(dim, width, kernel_init=INIT, rngs=rngs) if gated else None
        self.c_fc = layers.Linear(dim, width, kernel_init=INIT, rngs=rngs)
        self.ln = None if norm_eps is None else layers.LayerNorm(width, eps=norm_eps)
        self.c_proj = layers.Linear(width, dim, kernel_init=INIT, rngs=rngs)
        self.activation = layers.ActivationLayer(activation)

    def __call__(self, x: Array) -> Array:
        hidden = self.c_fc(x)
        hidden = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
        return self.c_proj(hidden if self.ln is None else self.ln(hidden))


class EvaBlock(Layer):
    def __init__(self, config: EvaConfig, rngs: nnx.Rngs):
        self.ln_1 = layers.LayerNorm(config.width, eps=config.ln_eps)
        self.attn = EvaAttention(config, rngs)
        self.ln_2 = layers.LayerNorm(config.width, eps=config.ln_eps)
        self.mlp = EvaMlp(
            config.width,
            config.mlp_width,
            gated=config.gated,
            activation=config.activation,
            norm_eps=config.ln_eps if config.mlp_norm else None,
            rngs=rngs,
        )
        self.norm = config.norm

    def __call__(self, x: Array, tables: tuple[Array, Array] | None) -> Array:
        if self.norm == "post":
            x = x + self.ln_1(self.attn(x, tables))
            return x + self.ln_2(self.mlp(x))
        x = x + self.attn(self.ln_1(x), tables)
        return x + self.mlp(self.ln_2(x))


class Eva(nnx.Module):
    """The image tower; features are the projected class token."""

    def __init__(self, config: EvaConfig, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.patch_embed = PatchEmbed(c.patch_size, c.width, use_bias=True, rngs=rngs)
        table = ((c.image_size // c.patch_size) ** 2 + 1, c.width)
        self.class_embedding = nnx.Param(INIT(rngs.params(), (c.width,)))
        self.positional_embedding = nnx.Param(INIT(rngs.params(), table))
        self.blocks = sequence.stack(lambda rngs: EvaBlock(c, rngs), c.layers, rngs)
        tokens.shrink_outputs_by_depth(self.blocks, c.layers)
        self.ln_post = layers.LayerNorm(c.width, eps=c.ln_eps)
        init = normal(0.02 * 0.001)  # timm scales the head's initial weights by 0.001
        self.proj = layers.Linear(c.width, c.embed_dim, kernel_init=init, rngs=rngs)

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        patches = self.patch_embed(images)
        embedded = self.embed(patches)
        x, outputs = sequence.scan(self.blocks, embedded, self.tables(patches), capture=capture)
        pooled = self.ln_post(x[:, 0])
        features = self.proj(pooled)
        return features, tokens.stages(patches, embedded, outputs, pooled, features)

    def embed(self, patches: Float[Array, "B h w D"]) -> Float[Array, "B N D"]:
        x = patches.reshape(len(patches), -1, patches.shape[-1])
        return tokens.prepend(x, self.class_embedding) + self.positional_embedding[...]

    def tables(self, patches: Float[Array, "B h w D"]) -> tuple[Array, Array] | None:
        """`rotary_tables` of the map, float32 at every precision; None without rotary positions."""
        if not self.config.rope_grid:
            return None
        cos, sin = rotary_tables(self.config, *patches.shape[1:3])
        return jnp.asarray(cos), jnp.asarray(sin)


def dense(
    tower: Eva, images: Float[Array, "B H W 3"], blocks: Sequence[int]
) -> list[Float[Array, "B h w D"]]:
    patches = tower.patch_embed(images)
    outputs = sequence.scan_at(tower.blocks, tower.embed(patches), tower.tables(patches), at=blocks)
    return [x[:, 1:].reshape(patches.shape) for x in outputs]


def narrow(config: EvaConfig) -> EvaConfig:
    return dataclasses.replace(config, **two_heads(config), image_size=3 * config.patch_size, embed_dim=96)


FAMILY = Family(
    name="eva",
    tower="vision",
    config=EvaConfig,
    build=Eva,
    narrow=narrow,
    dense=dense,
    depth=lambda config: config.layers,
    patch=lambda config: config.patch_size,
    positions=lambda c: Positions("positional_embedding", 1, c.image_size // c.patch_size, "timm"),
    cpu_options=layers.CPU_OPTIONS,
)
