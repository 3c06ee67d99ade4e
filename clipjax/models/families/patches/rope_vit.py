"""Vision transformers with rotary positions: the Perception Encoder's (PE-Core) and DINOv3.

Sources: Bolya et al. 2025 (arXiv 2504.13181) section 2; Siméoni et al. 2025 (arXiv 2508.10104) section 3.2;
timm 1.0 `eva.Eva` with `RotaryEmbeddingCat` and `RotaryEmbeddingDinoV3`. Names are those of vit.py.

    PE-Core    learned and rotary positions, a norm before the blocks, attention pooling, a projection
    DINOv3     rotary positions alone, registers, LayerScale, no biases of queries, keys and values

Only patches turn: the class token and registers do not. Differences: PE's rotations act on the halves of a
head (`eva.in_halves`); DINOv3's frequencies are float32, as in timm (the original's are bfloat16). DINOv3's
features are timm's, the mean of the normalised patches; the original's are its class token.

Params, in parentheses those of some variants: patch_embed/kernel [P,P,3,D] (patch_embed/bias [D]),
(class_embedding [D]), (register_embedding [R,D]), (positional_embedding [N,D] with the class token's first),
(ln_pre/{scale,bias}), blocks/{ln_1,ln_2}/{scale,bias}, blocks/attn/{q,k,v}/kernel
(blocks/attn/{q,k,v}/bias), blocks/attn/out/{kernel,bias}, (blocks/{ls_1,ls_2}/scale),
blocks/mlp/{c_fc,c_proj}/{kernel,bias} (blocks/mlp/gate/{kernel,bias}), ln_post/{scale,bias}, (pool/... as in
attention_pools.py), (proj/{kernel [D,E],bias}).
"""

from __future__ import annotations

import dataclasses
import math
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
from clipjax.models.families.patches.eva import INIT, EvaMlp, in_halves, rotate
from clipjax.models.families.patches.vit import PatchEmbed
from clipjax.models.modules import attention, layers, sequence, tokens
from clipjax.models.modules.attention_pools import MapPool
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal

TEMPERATURE = {"columns_first": 10000.0, "centred": 100.0}


@dataclass(frozen=True)
class RopeViTConfig:
    """Sizes in pixels and channels.

    Attributes:
        registers: learned tokens between the class token and the patches; 0: none.
        position_table: learned positions are added to class token and patches.
        pre_norm: a LayerNorm comes before the blocks; the patch embedding then has no bias.
        rope: "columns_first": the first half of a head's pairs turns by the column, the second by the row,
            numbers scaled to `rope_grid`. "centred": by the row, then the column, each from -1 to 1.
        rope_grid: side of pretraining's patch grid; 0 with "centred".
        rope_offset: the number of the first row and column; 0 with "centred".
        qkv_bias: queries, keys and values have biases.
        gated: activation(gate(x)) * c_fc(x) in the MLP: SwiGLU with "silu".
        pooling: "map": what one query reads from the normalised tokens; "mean": the mean of the normalised
            patches.
        pool_heads: 0 with "mean".
        pool_mlp_width: 0 with "mean".
        projection: a matrix with bias maps the pooled vector to `embed_dim` channels.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    class_token: bool
    registers: int
    position_table: bool
    pre_norm: bool
    rope: Literal["columns_first", "centred"]
    rope_grid: int
    rope_offset: int
    qkv_bias: bool
    layer_scale: bool
    gated: bool
    activation: Literal["gelu", "silu"]
    ln_eps: float
    pooling: Literal["map", "mean"]
    pool_heads: int
    pool_mlp_width: int
    projection: bool
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, self.patch_size, "patch_size")
        multiple_of("width", self.width, self.heads, "heads")
        if self.width // self.heads % 4:
            raise ValueError(f"rotary positions need heads of 4n channels, not {self.width // self.heads}")
        centred = self.rope == "centred"  # the angles are of places from -1 to 1, whatever the grid
        if centred != (self.rope_grid == 0) or (centred and self.rope_offset):
            raise ValueError(
                f"rope {self.rope!r} cannot have rope_grid {self.rope_grid} and this rope_offset"
            )
        if self.registers and (self.position_table or not self.class_token):
            raise ValueError(f"{self.registers} registers need a class token and no position_table")
        if self.pooling == "mean" and (self.pool_heads or self.pool_mlp_width):
            raise ValueError("pooling 'mean' has pool_heads 0 and pool_mlp_width 0")
        if self.pooling == "map":
            multiple_of("the width", self.width, self.pool_heads, "pool_heads")
        if not self.projection and self.embed_dim != self.width:
            raise ValueError(f"without a projection embed_dim is the width, {self.width}")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.registers


def rotary_tables(config: RopeViTConfig, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [N, head / 2] float32 of each token's angles, one per pair of channels.

    Prefix tokens do not turn. As timm's `RotaryEmbeddingCat` and `RotaryEmbeddingDinoV3`.
    """
    c, bands = config, config.width // config.heads // 4
    periods = np.float32(TEMPERATURE[c.rope]) ** (np.arange(bands, dtype=np.float32) / np.float32(bands))
    if c.rope == "centred":
        down, across = (
            2 * ((np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)) - 1
            for side in (height, width)
        )
        angles = np.float32(2 * math.pi) * _grid(down, across)[..., None] / periods
    else:
        down, across = (
            (np.arange(side, dtype=np.float32) + np.float32(c.rope_offset))
            / np.float32(side)
            * np.float32(c.rope_grid)
            for side in (height, width)
        )
        angles = _grid(down, across)[..., ::-1, None] * (1 / periods)
    turned = angles.reshape(height * width, -1)
    angles = np.concatenate([np.zeros((c.prefix, 2 * bands), np.float32), turned])
    return np.cos(angles), np.sin(angles)


def _grid(down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """[h, w, 2]: row and column."""
    return np.stack(np.meshgrid(down, across, indexing="ij"), axis=-1)


class Attention(nnx.Module):
    def __init__(self, config: RopeViTConfig, rngs: nnx.Rngs):
        dim, bias = config.width, config.qkv_bias
        self.q = layers.Linear(dim, dim, kernel_init=INIT, use_bias=bias, rngs=rngs)
        self.k = layers.Linear(dim, dim, kernel_init=INIT, use_bias=bias, rngs=rngs)
        self.v = layers.Linear(dim, dim, kernel_init=INIT, use_bias=bias, rngs=rngs)
        self.out = layers.Linear(dim, dim, kernel_init=INIT, rngs=rngs)
        self.attend = attention.MultiHead(config.heads)
        self.neighbours = config.rope == "columns_first"

    def __call__(self, x: Array, tables: tuple[Array, Array]) -> Array:
        if self.neighbours:  # a rotation pairs neighbouring channels
            q, k = (in_halves(linear, x, self.attend.heads) for linear in (self.q, self.k))
        else:  # channels half a head apart
            q, k = self.q(x), self.k(x)
        q, k, v = (self.attend.split(y) for y in (q, k, self.v(x)))
        return self.out(self.attend.of_heads(rotate(q, *tables), rotate(k, *tables), v))


class Block(Layer):
    def __init__(self, config: RopeViTConfig, rngs: nnx.Rngs):
        c = config
        self.ln_1 = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.attn = Attention(c, rngs)
        self.ls_1 = layers.LayerScale(c.width, init=1e-5) if c.layer_scale else None
        self.ln_2 = layers.LayerNorm(c.width, eps=c.ln_eps)
        flags = {"gated": c.gated, "activation": c.activation, "norm_eps": None, "rngs": rngs}
        self.mlp = EvaMlp(c.width, c.mlp_width, **flags)
        self.ls_2 = layers.LayerScale(c.width, init=1e-5) if c.layer_scale else None

    def __call__(self, x: Array, tables: tuple[Array, Array]) -> Array:
        attended = self.attn(self.ln_1(x), tables)
        x = x + (attended if self.ls_1 is None else self.ls_1(attended))
        mixed = self.mlp(self.ln_2(x))
        return x + (mixed if self.ls_2 is None else self.ls_2(mixed))


class RopeViT(nnx.Module):
    def __init__(self, config: RopeViTConfig, rngs: nnx.Rngs):
        c = config
        self.config = config
        self.patch_embed = PatchEmbed(c.patch_size, c.width, use_bias=not c.pre_norm, rngs=rngs)
        self.class_embedding = nnx.Param(INIT(rngs.params(), (c.width,))) if c.class_token else None
        registers = (c.registers, c.width)
        self.register_embedding = nnx.Param(INIT(rngs.params(), registers)) if c.registers else None
        table = (c.grid**2 + c.prefix, c.width)
        self.positional_embedding = nnx.Param(INIT(rngs.params(), table)) if c.position_table else None
        self.ln_pre = layers.LayerNorm(c.width, eps=c.ln_eps) if c.pre_norm else None
        self.blocks = sequence.stack(lambda rngs: Block(c, rngs), c.layers, rngs)
        tokens.shrink_outputs_by_depth(self.blocks, c.layers)
        self.ln_post = layers.LayerNorm(c.width, eps=c.ln_eps)
        pool = {"activation": "gelu", "ln_eps": c.ln_eps, "rngs": rngs}
        mapped = c.pooling == "map"
        self.pool = MapPool(c.width, c.pool_heads, c.pool_mlp_width, **pool) if mapped else None
        init = normal(0.02 * 0.001)
        self.proj = layers.Linear(c.width, c.embed_dim, kernel_init=init, rngs=rngs) if c.projection else None

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        patches = self.patch_embed(images)
        embedded = self.embed(patches)
        x, outputs = sequence.scan(self.blocks, embedded, self.tables(patches), capture=capture)
        pooled = self.pooled(x)
        features = pooled if self.proj is None else self.proj(pooled)
        return features, tokens.stages(
            patches, embedded, outputs, pooled, None if self.proj is None else features
        )

    def embed(self, patches: Float[Array, "B h w D"]) -> Float[Array, "B N D"]:
        x = patches.reshape(len(patches), -1, patches.shape[-1])
        x = tokens.prepend(x, self.class_embedding, self.register_embedding)
        if self.positional_embedding is not None:
            x = x + self.positional_embedding[...]
        return x if self.ln_pre is None else self.ln_pre(x)

    def tables(self, patches: Float[Array, "B h w D"]) -> tuple[Array, Array]:
        """Cosines and sines of the rotations, float32 at every precision."""
        cos, sin = rotary_tables(self.config, *patches.shape[1:3])
        return jnp.asarray(cos), jnp.asarray(sin)

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        x = self.ln_post(x)
        return x[:, self.config.prefix :].mean(axis=1) if self.pool is None else self.pool(x)


def dense(
    tower: RopeViT, images: Float[Array, "B H W 3"], blocks: Sequence[int]
) -> list[Float[Array, "B h w D"]]:
    patches = tower.patch_embed(images)
    outputs = sequence.scan_at(tower.blocks, tower.embed(patches), tower.tables(patches), at=blocks)
    return [x[:, tower.config.prefix :].reshape(patches.shape) for x in outputs]


def narrow(config: RopeViTConfig) -> RopeViTConfig:
    sizes = two_heads(config) | {"image_size": 3 * config.patch_size}
    sizes["embed_dim"] = 96 if config.projection else sizes["width"]
    if config.pooling == "map":
        sizes["pool_mlp_width"] = sizes["width"] * (config.pool_mlp_width // config.width)
    return dataclasses.replace(config, **sizes)


def positions(config: RopeViTConfig) -> Positions | None:
    if not config.position_table:
        return None
    return Positions("positional_embedding", config.prefix, config.grid, "timm")


FAMILY = Family(
    name="rope_vit",
    tower="vision",
    config=RopeViTConfig,
    build=RopeViT,
    narrow=narrow,
    dense=dense,
    depth=lambda config: config.layers,
    patch=lambda config: config.patch_size,
    positions=positions,
    cpu_options=layers.CPU_OPTIONS,
)
