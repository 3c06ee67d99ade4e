"""CLIP's text transformer.

Sources: Radford et al. 2021 (arXiv 2103.00020) section 2.4; open_clip 3.3.0 `transformer.TextTransformer` for
the details and the names.

A text may be cut to any length that still holds its end-of-text token: attention is causal and the features
are read out at that token, so what follows it changes nothing.

Params: token_embedding [V,D], positional_embedding [L,D], blocks/... as in vit.py, ln_final/{scale,bias},
text_projection [D,E].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import normal

from clipjax.models import layers
from clipjax.models.arch import Family


@dataclass(frozen=True)
class TextConfig:
    """`pooling` "argmax": the features are read at the first highest id of a text.

    CLIP's end-of-text id is the highest of its vocabulary.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    pooling: Literal["argmax"]
    embed_dim: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class TextTransformer(nnx.Module):
    """ids [B, L], L <= context_length -> features [B, E], not of unit norm."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        c = config
        self.token_embedding = nnx.Param(normal(0.02)(rngs.params(), (c.vocab_size, c.width)))
        self.positional_embedding = nnx.Param(normal(0.01)(rngs.params(), (c.context_length, c.width)))
        residual_init = normal(c.width**-0.5 * (2 * c.layers) ** -0.5)
        block = partial(
            layers.Block,
            c.width,
            c.heads,
            c.mlp_width,
            activation=c.activation,
            ln_eps=c.ln_eps,
            qkv_init=normal(c.width**-0.5),
            out_init=residual_init,
            fc_init=normal((2 * c.width) ** -0.5),
            proj_init=residual_init,
        )
        self.blocks = layers.stack(lambda rngs: block(rngs=rngs), c.layers, rngs)
        self.ln_final = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.text_projection = nnx.Param(normal(c.width**-0.5)(rngs.params(), (c.width, c.embed_dim)))

    def __call__(self, ids: Array, capture: bool) -> tuple[Array, dict[str, Array]]:
        length = ids.shape[1]
        # Ids are the tokenizer's, so in range: "clip" spares the bounds check's NaN fill.
        tokens = jnp.take(self.token_embedding[...], ids, axis=0, mode="clip")
        embedded = tokens + self.positional_embedding[:length]
        x, outputs = layers.scan(self.blocks, embedded, layers.causal(length), capture=capture)
        end = jnp.argmax(ids, axis=1)[:, None, None]
        # Along the axis, not x[arange, end]: that would gather a sharded batch on every device.
        pooled = self.ln_final(jnp.take_along_axis(x, end, axis=1, mode="clip")[:, 0])
        features = pooled @ self.text_projection[...]
        if outputs is None:
            return features, {}
        stages = {"embed": embedded} | {f"blocks.{i}": output for i, output in enumerate(outputs)}
        return features, stages | {"pooled": pooled, "projected": features}


def narrow(config: TextConfig) -> TextConfig:
    """Two heads, two blocks, 16 positions, 300 tokens."""
    c, head = config, config.width // config.heads
    sizes = {"context_length": 16, "vocab_size": 300, "width": 2 * head, "layers": 2, "heads": 2}
    return dataclasses.replace(c, **sizes, mlp_width=int(2 * head * c.mlp_width / c.width), embed_dim=96)


FAMILY = Family(name="text", tower="text", config=TextConfig, build=TextTransformer, narrow=narrow)
