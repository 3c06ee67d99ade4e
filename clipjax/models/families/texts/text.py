"""The text transformer of CLIP and, without the causal mask, of SigLIP and some MobileCLIPs.

Sources: Radford et al. 2021 (arXiv 2103.00020) section 2.4; Zhai et al. 2023 (arXiv 2303.15343) section 4 for
SigLIP; open_clip 3.3.0 `transformer.TextTransformer`.

CLIP's causal tower reads out at the end-of-text token: texts may be cut anywhere after it. SigLIP's sees the
padding (so do some MobileCLIPs) and reads out at the last position: its texts fill the context.

Params: token_embedding [V,D], positional_embedding [L,D], blocks/... as in vit.py, ln_final/{scale,bias},
(text_projection [D,E]) and, for SigLIP, text_projection_bias [E].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Frame, two_heads
from clipjax.models.modules import attention, layers, sequence
from clipjax.models.modules.initializers import full, normal
from clipjax.models.modules.tokens import HighestId, Lookup, at_positions
from clipjax.models.text_ids import Memory, Rest


@dataclass(frozen=True)
class TextConfig:
    """`pooling`: where the features are read.

    "argmax": at the first highest id, which is CLIP's end-of-text id. "last": at the last
    position. "eos": at the first `eos_id`, or at the first position of a text without one.

    `eos_id`: None but for "eos" (MetaCLIP 2, whose end-of-text id is not the highest).
    `pad_id`: what fills the context; None: 0, with "last" its end id, 1.
    `projection` False: none, the features are the normalised token.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    causal: bool
    pooling: Literal["argmax", "last", "eos"]
    projection_bias: bool
    embed_dim: int
    eos_id: int | None = None
    pad_id: int | None = None
    projection: Literal[False] | None = None

    def __post_init__(self) -> None:
        multiple_of("width", self.width, self.heads, "heads")
        if self.projection is False and (self.projection_bias or self.embed_dim != self.width):
            raise ValueError(
                f"without a projection embed_dim is the width, {self.width}, and projection_bias is false"
            )
        if (self.eos_id is not None) != (self.pooling == "eos"):
            raise ValueError(f"eos_id is {self.eos_id}: pooling 'eos' has one, {self.pooling!r} none")

    @property
    def min_length(self) -> int:
        return 1 if self.causal and self.pooling != "last" else self.context_length

    def reach(self, ids: np.ndarray) -> np.ndarray:
        if self.min_length > 1:
            return np.full(len(ids), ids.shape[1], np.int32)
        ends = ids if self.eos_id is None else ids == self.eos_id
        return ends.argmax(axis=1).astype(np.int32) + 1

    @property
    def frame(self) -> Frame:
        pad = self.pad_id
        if self.pooling == "last":  # SigLIP pads with its end token
            return Frame((), (1,), 1 if pad is None else pad)
        if self.eos_id is not None:  # XLM-V's start of text is 0, mT5 has none
            return Frame((0,) if pad else (), (self.eos_id,), pad or 0)
        return Frame((self.vocab_size - 2,), (self.vocab_size - 1,), 0)


class TextTransformer(nnx.Module):
    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        c = config
        self.token_embedding = nnx.Param(normal(0.02)(rngs.params(), (c.vocab_size, c.width)))
        self.positional_embedding = nnx.Param(normal(0.01)(rngs.params(), (c.context_length, c.width)))
        self.blocks = text_blocks(c, rngs)
        self.ln_final = layers.LayerNorm(c.width, eps=c.ln_eps)
        matrix = (c.width, c.embed_dim)
        self.text_projection = (
            None if c.projection is False else nnx.Param(normal(c.width**-0.5)(rngs.params(), matrix))
        )
        self.text_projection_bias = nnx.Param(full((c.embed_dim,), 0.0)) if c.projection_bias else None
        self.lookup, self.at_highest_id = Lookup(), HighestId()
        self.causal, self.pooling, self.eos_id = c.causal, c.pooling, c.eos_id

    def __call__(self, ids: Int[Array, "B L"], capture: bool) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        length = ids.shape[1]
        embedded = self.lookup(self.token_embedding, ids) + self.positional_embedding[:length]
        visible = attention.causal(length) if self.causal else None
        x, outputs = sequence.scan(self.blocks, embedded, visible, capture=capture)
        ends = ids if self.eos_id is None else ids == self.eos_id
        pooled = self.ln_final(x[:, -1] if self.pooling == "last" else self.at_highest_id(x, ends))
        features = self._projected(pooled)
        return features, stages(embedded, outputs, pooled, features)

    def _projected(self, pooled: Float[Array, "B D"]) -> Float[Array, "B E"]:
        features = pooled if self.text_projection is None else pooled @ self.text_projection[...]
        return features if self.text_projection_bias is None else features + self.text_projection_bias[...]

    def embedded(
        self,
        beginning: Float[Array, "P D"],
        tokens: Float[Array, "B L D"],
        positions: Int[Array, " B"],
    ) -> Float[Array, "B E"]:
        """See `clipjax.models.network.Network.encode_embedded`."""
        start, length = len(beginning), len(beginning) + tokens.shape[1]
        table = self.positional_embedding[...]
        first, rest = (beginning + table[:start])[None], tokens + table[start:length]
        visible = attention.causal(length) if self.causal else None

        def step(texts: tuple[Array, Array], block: Any) -> tuple[tuple[Array, Array], None]:
            return block_behind(block, *texts, visible), None

        (_, x), _ = jax.lax.scan(sequence.kept(step, self.blocks), (first, rest), self.blocks)
        return self._projected(self.ln_final(at_positions(x, positions - start)))

    def begin(self, ids: Int[Array, "F P"]) -> Memory:
        """See `clipjax.models.network.Network.begin_texts`."""
        visible = attention.causal(ids.shape[1])

        def step(x: Array, block: Any) -> tuple[Array, Memory]:
            return block_after(block, x, None, visible)

        x = self.lookup(self.token_embedding, ids) + self.positional_embedding[: ids.shape[1]]
        return jax.lax.scan(step, x, self.blocks)[1]

    def finish(self, memory: Memory, rest: Rest) -> Float[Array, "B E"]:
        """See `clipjax.models.network.Network.finish_texts`."""
        count, length = rest.ids.shape
        # A token of the rest sees the beginning's tokens that its text has, then those of the rest before it.
        earlier = jnp.arange(memory[0].shape[2]) < rest.start[:, None, None, None]
        masks = [earlier, attention.causal(length)]
        visible = jnp.concatenate(
            [jnp.broadcast_to(mask, (count, 1, length, mask.shape[-1])) for mask in masks], axis=-1
        )

        def step(x: Array, layer: tuple[Any, Memory]) -> tuple[Array, None]:
            block, (keys, values) = layer
            before = keys[rest.beginning], values[rest.beginning]
            return block_after(block, x, before, visible)[0], None

        positions = rest.start[:, None] + jnp.arange(length)
        x = self.lookup(self.token_embedding, rest.ids) + self.lookup(self.positional_embedding, positions)
        x, _ = jax.lax.scan(step, x, (self.blocks, memory))
        return self._projected(self.ln_final(at_positions(x, rest.length - 1)))


def block_behind(
    block: layers.Block,
    first: Float[Array, "1 P D"],
    rest: Float[Array, "B L D"],
    visible: Bool[Array, "P+L P+L"] | None,
) -> tuple[Float[Array, "1 P D"], Float[Array, "B L D"]]:
    """A block on texts after a shared beginning that does not see them.

    The beginning runs once; all texts read its keys and values.

    visible: causal; None (no mask) only if P = 0.
    """
    start = first.shape[1]
    if start == 0:
        return first, block(rest, visible)
    assert visible is not None
    first, shared = block_after(block, first, None, visible[:start, :start])
    keys, values = (jnp.broadcast_to(x, (len(rest), *x.shape[1:])) for x in shared)
    return first, block_after(block, rest, (keys, values), visible[start:])[0]


def block_after(
    block: layers.Block,
    x: Float[Array, "B L D"],
    before: Memory | None,
    visible: attention.Visible,
) -> tuple[Float[Array, "B L D"], Memory]:
    """A block on tokens that may also read the tokens `before` them.

    Returns: the output; the tokens' own keys and values.
    """
    attn = block.attn
    q, k, v = (linear(block.ln_1(x)) for linear in (attn.q, attn.k, attn.v))
    own = keys, values = k, v
    if before is not None:
        keys, values = (jnp.concatenate(both, axis=1) for both in zip(before, own, strict=True))
    x += attn.out(attn.attend(q, keys, values, visible))
    return x + block.mlp(block.ln_2(x)), own


def text_blocks(config: Any, rngs: nnx.Rngs) -> layers.Block:
    """The blocks of a text tower, initialised as in open_clip."""
    c = config
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
    return sequence.stack(lambda rngs: block(rngs=rngs), c.layers, rngs)


def stages(embedded: Array, blocks: Array | None, pooled: Array, features: Array) -> dict[str, Array]:
    if blocks is None:
        return {}
    outputs = {"embed": embedded} | {f"blocks.{i}": output for i, output in enumerate(blocks)}
    return outputs | {"pooled": pooled, "projected": features}


def narrow(config: Any) -> Any:
    sizes = two_heads(config)
    sizes["embed_dim"] = sizes["width"] if getattr(config, "projection", None) is False else 96
    return dataclasses.replace(config, **sizes, context_length=16, vocab_size=300)


FAMILY = Family(
    name="text",
    tower="text",
    config=TextConfig,
    build=TextTransformer,
    narrow=narrow,
    embedded=TextTransformer.embedded,
    begin=TextTransformer.begin,
    finish=TextTransformer.finish,
    cpu_options=layers.CPU_OPTIONS,
)
