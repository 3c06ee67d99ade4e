"""RoBERTa and XLM-RoBERTa as CLIP's text tower: the mean over the tokens, and a projection.

Sources: Liu et al. 2019 (arXiv 1907.11692); transformers 5.24 `modeling_roberta` for the encoder; open_clip
3.3.0 `hf_model.HFTextEncoder` with its `mean_pooler`.

LayerNorm comes after each residual sum and after the embeddings. Attention and the mean skip padding.
Positions start at row `pad_id` + 1; padding has row `pad_id`, which is never learned.

Params: token_embedding [V,D], positional_embedding [P,D], token_type_embedding [T,D] (every token is of type
0), ln_embed/{scale,bias}, blocks/attn/{q,k,v,out}/{kernel,bias}, blocks/ln_1/{scale,bias},
blocks/mlp/{c_fc,c_proj}/{kernel,bias}, blocks/ln_2/{scale,bias}, and proj/kernel
[D,E] or proj/{c_fc,c_proj}/kernel [D,H], [H,E].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Frame
from clipjax.models.families.texts.text import narrow as narrow_text
from clipjax.models.families.texts.text import stages
from clipjax.models.modules import layers, sequence, tokens
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal

_INIT = normal(0.02)  # transformers' `initializer_range`, for every matrix but the projection's


@dataclass(frozen=True)
class RobertaConfig:
    """`positions`: rows of the position table; no token uses the first `pad_id` + 1.

    `projection` "mlp": linear, GELU, linear, (width + embed_dim) // 2 hidden channels, no biases.
    """

    context_length: int
    vocab_size: int
    pad_id: int
    positions: int
    token_types: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    pooling: Literal["mean"]
    projection: Literal["linear", "mlp"]
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("width", self.width, self.heads, "heads")
        if self.positions < self.context_length + self.pad_id + 1:
            raise ValueError(
                f"positions {self.positions} are too few for context_length {self.context_length} behind "
                f"the {self.pad_id + 1} that no token uses"
            )

    @property
    def min_length(self) -> int:
        return 1

    def reach(self, ids: np.ndarray) -> np.ndarray:
        return ((ids != self.pad_id) * np.arange(1, ids.shape[1] + 1, dtype=np.int32)).max(axis=1)

    @property
    def frame(self) -> Frame:
        return Frame((0,), (2,), self.pad_id)


class PostNormBlock(Layer):
    def __init__(self, config: RobertaConfig, rngs: nnx.Rngs):
        c = config
        self.attn = layers.Attention(c.width, c.heads, qkv_init=_INIT, out_init=_INIT, rngs=rngs)
        self.ln_1 = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.mlp = FeedForward(c.width, c.mlp_width, c.width, c.activation, rngs)
        self.ln_2 = layers.LayerNorm(c.width, eps=c.ln_eps)

    def __call__(self, x: Array, visible: Array) -> Array:
        x = self.ln_1(x + self.attn(x, visible))
        return self.ln_2(x + self.mlp(x))


class FeedForward(nnx.Module):
    def __init__(self, dim: int, width: int, out: int, activation: str, rngs: nnx.Rngs):
        self.c_fc = layers.Linear(dim, width, kernel_init=_INIT, rngs=rngs)
        self.c_proj = layers.Linear(width, out, kernel_init=_INIT, rngs=rngs)
        self.activation = layers.ActivationLayer(activation)

    def __call__(self, x: Array) -> Array:
        return self.c_proj(self.activation(self.c_fc(x)))


class Projection(nnx.Module):
    """HFTextEncoder's projection "mlp", always with the exact GELU."""

    def __init__(self, dim: int, out: int, rngs: nnx.Rngs):
        hidden = (dim + out) // 2
        self.c_fc = layers.Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.c_proj = layers.Linear(hidden, out, use_bias=False, rngs=rngs)
        self.activation = layers.ActivationLayer("gelu")

    def __call__(self, x: Array) -> Array:
        return self.c_proj(self.activation(self.c_fc(x)))


class RobertaTower(nnx.Module):
    def __init__(self, config: RobertaConfig, rngs: nnx.Rngs):
        c = config
        self.token_embedding = nnx.Param(_INIT(rngs.params(), (c.vocab_size, c.width)))
        self.positional_embedding = nnx.Param(_INIT(rngs.params(), (c.positions, c.width)))
        self.token_type_embedding = nnx.Param(_INIT(rngs.params(), (c.token_types, c.width)))
        self.ln_embed = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.blocks = sequence.stack(lambda rngs: PostNormBlock(c, rngs), c.layers, rngs)
        if c.projection == "mlp":
            self.proj = Projection(c.width, c.embed_dim, rngs)
        else:
            self.proj = layers.Linear(c.width, c.embed_dim, use_bias=False, rngs=rngs)
        self.lookup = tokens.Lookup()
        self.pad_id = c.pad_id

    def __call__(self, ids: Int[Array, "B L"], capture: bool) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        real = ids != self.pad_id
        positions = jnp.where(real, jnp.cumsum(real, axis=1, dtype=jnp.int32), 0) + self.pad_id
        words = self.lookup(self.token_embedding, ids) + self.token_type_embedding[0]
        embedded = self.ln_embed(words + self.lookup(self.positional_embedding, positions))
        x, outputs = sequence.scan(self.blocks, embedded, real[:, None, None, :], capture=capture)
        pooled = masked_mean(x, real)
        features = self.proj(pooled)
        return features, stages(embedded, outputs, pooled, features)


def masked_mean(x: Float[Array, "B L D"], real: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over the positions where `real`, summed in float32."""
    total = jnp.where(real[:, :, None], x, 0).sum(axis=1, dtype=jnp.float32)
    return (total / real.sum(axis=1, keepdims=True, dtype=jnp.float32)).astype(x.dtype)


def narrow(config: RobertaConfig) -> RobertaConfig:
    return dataclasses.replace(narrow_text(config), positions=20)


FAMILY = Family(
    name="roberta",
    tower="text",
    config=RobertaConfig,
    build=RobertaTower,
    narrow=narrow,
    cpu_options=layers.CPU_OPTIONS,
)
