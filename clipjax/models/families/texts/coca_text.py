"""CoCa's text encoder: CLIP's causal text transformer with a learned token after the text.

Sources: Yu et al. 2022 (arXiv 2205.01917) section 3.2; open_clip 3.3.0 `transformer.TextTransformer` with
`embed_cls`. The captioning decoder is left out.

The features are the appended token's. It should see the text and not the padding, but open_clip's mask is
one column off (`shifted_mask`; False is correct): it sees the first padding token, and itself only if the
text fills the context. The released weights are trained so.

Params: token_embedding [V,D], cls_embedding [D], positional_embedding [L+1,D], blocks/... as in vit.py,
ln_final/{scale,bias}, text_projection [D,E].
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Frame
from clipjax.models.families.texts.text import narrow, stages, text_blocks
from clipjax.models.modules import attention, layers, sequence, tokens
from clipjax.models.modules.initializers import normal


@dataclass(frozen=True)
class CocaTextConfig:
    """`context_length` counts ids without the appended token; `pad_id` fills the context."""

    context_length: int
    vocab_size: int
    pad_id: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    shifted_mask: bool
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("width", self.width, self.heads, "heads")

    @property
    def min_length(self) -> int:
        return self.context_length

    def reach(self, ids: np.ndarray) -> np.ndarray:
        return np.full(len(ids), ids.shape[1], np.int32)

    @property
    def frame(self) -> Frame:
        return Frame((self.vocab_size - 2,), (self.vocab_size - 1,), self.pad_id)


class CocaTextTransformer(nnx.Module):
    def __init__(self, config: CocaTextConfig, rngs: nnx.Rngs):
        c = config
        self.token_embedding = nnx.Param(normal(0.02)(rngs.params(), (c.vocab_size, c.width)))
        self.cls_embedding = nnx.Param(normal(0.01)(rngs.params(), (c.width,)))
        self.positional_embedding = nnx.Param(normal(0.01)(rngs.params(), (c.context_length + 1, c.width)))
        self.blocks = text_blocks(c, rngs)
        self.ln_final = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.text_projection = nnx.Param(normal(c.width**-0.5)(rngs.params(), (c.width, c.embed_dim)))
        self.lookup = tokens.Lookup()
        self.pad_id, self.shifted_mask = c.pad_id, c.shifted_mask

    def __call__(self, ids: Int[Array, "B L"], capture: bool) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        words = self.lookup(self.token_embedding, ids)
        appended = jnp.broadcast_to(self.cls_embedding[...], (len(ids), 1, words.shape[-1]))
        embedded = jnp.concatenate([words, appended], axis=1) + self.positional_embedding[...]
        x, outputs = sequence.scan(self.blocks, embedded, self._visible(ids), capture=capture)
        pooled = self.ln_final(x[:, -1])
        features = pooled @ self.text_projection[...]
        return features, stages(embedded, outputs, pooled, features)

    def _visible(self, ids: Array) -> Array:
        """[B, 1, L + 1, L + 1]: causal, and without the padding."""
        text, appended = ids != self.pad_id, jnp.ones((len(ids), 1), bool)
        keys = jnp.concatenate([appended, text] if self.shifted_mask else [text, appended], axis=1)
        return attention.causal(keys.shape[1]) & keys[:, None, None, :]


FAMILY = Family(
    name="coca_text",
    tower="text",
    config=CocaTextConfig,
    build=CocaTextTransformer,
    narrow=narrow,
    cpu_options=layers.CPU_OPTIONS,
)
