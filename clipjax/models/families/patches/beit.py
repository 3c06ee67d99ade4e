"""BEiT and BEiT v2 as classifiers: vision transformers with a bias for each distance of patches.

Sources: Bao et al. 2022 (arXiv 2106.08254), Peng et al. 2022 (arXiv 2208.06366); timm 1.0 `beit.Beit`. Names
are those of vit.py. Biases (`relative_position.py`) replace the position table. Keys have no bias.

Params: patch_embed/{kernel [P,P,3,D],bias}, class_embedding [D], blocks/{ln_1,ln_2}/{scale,bias},
blocks/attn/{q,v,out}/{kernel,bias}, blocks/attn/k/kernel, blocks/attn/table [(2g-1)^2+3,heads] for g x g
patches, blocks/{ls_1,ls_2}/scale [D], blocks/mlp/{c_fc,c_proj}/{kernel,bias},
ln_post/{scale,bias}.
Stages: patch_embed, embed, blocks.0, ..., pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Positions, two_heads
from clipjax.models.families.patches.vit import PatchEmbed
from clipjax.models.modules import layers, sequence, tokens
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal
from clipjax.models.modules.relative_position import RelativeAttention

LAYER_SCALE = 0.1  # at initialisation

# timm's `_init_weights` for every matrix. Bias tables start at zero in timm, here as the matrices.
_INIT = normal(0.02)


@dataclass(frozen=True)
class BeitConfig:
    """Sizes in pixels and channels. `pooling`: the normalised mean of all tokens but the class token."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    pooling: Literal["patches"]
    embed_dim: int

    def __post_init__(self) -> None:
        multiple_of("image_size", self.image_size, self.patch_size, "patch_size")
        multiple_of("width", self.width, self.heads, "heads")
        if self.embed_dim != self.width:
            raise ValueError(f"embed_dim {self.embed_dim} is not the width, {self.width}")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


class Block(Layer):
    def __init__(self, config: BeitConfig, rngs: nnx.Rngs):
        c = config
        self.ln_1 = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.attn = RelativeAttention(
            c.width, c.heads, window=(c.grid, c.grid), class_token=True, key_bias=False, init=_INIT, rngs=rngs
        )
        self.ls_1 = layers.LayerScale(c.width, init=LAYER_SCALE)
        self.ln_2 = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.mlp = layers.Mlp(
            c.width, c.mlp_width, activation=c.activation, fc_init=_INIT, proj_init=_INIT, rngs=rngs
        )
        self.ls_2 = layers.LayerScale(c.width, init=LAYER_SCALE)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x + self.ls_1(self.attn(self.ln_1(x)))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Beit(nnx.Module):
    def __init__(self, config: BeitConfig, rngs: nnx.Rngs):
        c = config
        self.patch_embed = PatchEmbed(c.patch_size, c.width, use_bias=True, rngs=rngs)
        self.class_embedding = nnx.Param(_INIT(rngs.params(), (c.width,)))
        self.blocks = sequence.stack(lambda rngs: Block(c, rngs), c.layers, rngs)
        tokens.shrink_outputs_by_depth(self.blocks, c.layers)
        self.ln_post = layers.LayerNorm(c.width, eps=c.ln_eps)

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        patches = self.patch_embed(images)
        embedded = self.embed(patches)
        x, outputs = sequence.scan(self.blocks, embedded, capture=capture)
        features = self.pooled(x)
        return features, tokens.stages(patches, embedded, outputs, features, None)

    def embed(self, patches: Float[Array, "B h w D"]) -> Float[Array, "B N D"]:
        return tokens.prepend(patches.reshape(len(patches), -1, patches.shape[-1]), self.class_embedding)

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B E"]:
        return self.ln_post(x[:, 1:].mean(axis=1))


def dense(
    tower: Beit, images: Float[Array, "B H W 3"], blocks: Sequence[int]
) -> list[Float[Array, "B h w D"]]:
    """The patches' outputs of each of `blocks`, as maps of h x w patches."""
    patches = tower.patch_embed(images)
    _, height, width, _ = patches.shape
    # The bias table was resampled to this map; the window decides which distance reads which of its rows.
    tower.blocks.attn.window = height, width
    outputs = sequence.scan_at(tower.blocks, tower.embed(patches), at=blocks)
    return [x[:, 1:].reshape(patches.shape) for x in outputs]


def narrow(config: BeitConfig) -> BeitConfig:
    sizes = two_heads(config)
    return dataclasses.replace(config, **sizes, image_size=3 * config.patch_size, embed_dim=sizes["width"])


FAMILY = Family(
    name="beit",
    tower="vision",
    config=BeitConfig,
    build=Beit,
    narrow=narrow,
    dense=dense,
    depth=lambda config: config.layers,
    patch=lambda config: config.patch_size,
    positions=lambda config: Positions("blocks/attn/table", 3, config.grid, "timm", distances=True),
    cpu_options=layers.CPU_OPTIONS,
)
