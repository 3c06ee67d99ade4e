"""The plain vision transformer, as CLIP uses it.

Sources: Dosovitskiy et al. 2021 (arXiv 2010.11929) section 3.1; Radford et al. 2021 (arXiv 2103.00020)
section 2.4 for the LayerNorm before the blocks; open_clip 3.3.0 `transformer.VisionTransformer` for the
details and the names.
Difference: the patch embedding is a matrix product over flattened patches, which is the same sum.

Params: patch_embed/kernel [P,P,3,D], class_embedding [D], positional_embedding [N,D] with the class token's
first, ln_pre/{scale,bias}, blocks/{ln_1,ln_2}/{scale,bias}, blocks/attn/{q,k,v,out}/{kernel,bias},
blocks/mlp/{c_fc,c_proj}/{kernel,bias} (blocks stacked on axis 0), ln_post/{scale,bias}, proj [D,E].
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import normal, variance_scaling

from clipjax.models import layers
from clipjax.models.arch import Family


@dataclass(frozen=True)
class ViTConfig:
    """Sizes in pixels and channels. `pooling` "class": the features are the class token's."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: layers.Activation
    ln_eps: float
    pooling: Literal["class"]
    embed_dim: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class PatchEmbed(nnx.Module):
    """Cuts [B, H, W, 3] into patches and embeds each: [B, H / P, W / P, D]."""

    def __init__(self, patch: int, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(layers.torch_uniform(rngs.params(), (patch, patch, 3, width), jnp.float32))

    def __call__(self, images: Array) -> Array:
        kernel = self.kernel[...]
        patch, _, channels, width = kernel.shape
        batch, height, wide, _ = images.shape
        rows, cols = height // patch, wide // patch
        x = images.reshape(batch, rows, patch, cols, patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, rows, cols, -1) @ kernel.reshape(-1, width)


class VisionTransformer(nnx.Module):
    """images [B, S, S, 3], normalised -> features [B, E], not of unit norm."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        c, scale = config, config.width**-0.5
        self.patch_embed = PatchEmbed(c.patch_size, c.width, rngs=rngs)
        self.class_embedding = nnx.Param(normal(scale)(rngs.params(), (c.width,)))
        tokens = (c.image_size // c.patch_size) ** 2 + 1
        self.positional_embedding = nnx.Param(normal(scale)(rngs.params(), (tokens, c.width)))
        self.ln_pre = layers.LayerNorm(c.width, eps=c.ln_eps)
        block = partial(
            layers.Block,
            c.width,
            c.heads,
            c.mlp_width,
            activation=c.activation,
            ln_eps=c.ln_eps,
            # Xavier uniform over the fused [3D, D] matrix that torch.nn.MultiheadAttention initialises.
            qkv_init=variance_scaling(0.5, "fan_in", "uniform"),
            out_init=layers.torch_uniform,
            fc_init=layers.torch_uniform,
            proj_init=layers.torch_uniform,
        )
        self.blocks = layers.stack(lambda rngs: block(rngs=rngs), c.layers, rngs)
        self.ln_post = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.proj = nnx.Param(normal(scale)(rngs.params(), (c.width, c.embed_dim)))

    def __call__(self, images: Array, capture: bool) -> tuple[Array, dict[str, Array]]:
        patches = self.patch_embed(images)
        batch, width = patches.shape[0], patches.shape[-1]
        class_token = jnp.broadcast_to(self.class_embedding[...], (batch, 1, width))
        x = jnp.concatenate([class_token, patches.reshape(batch, -1, width)], axis=1)
        embedded = self.ln_pre(x + self.positional_embedding[...])
        x, outputs = layers.scan(self.blocks, embedded, capture=capture)
        pooled = self.ln_post(x[:, 0])
        features = pooled @ self.proj[...]
        if outputs is None:
            return features, {}
        stages = {"patch_embed": patches, "embed": embedded}
        stages |= {f"blocks.{i}": output for i, output in enumerate(outputs)}
        return features, stages | {"pooled": pooled, "projected": features}


def narrow(config: ViTConfig) -> ViTConfig:
    """Two heads, two blocks, nine patches."""
    c, head = config, config.width // config.heads
    sizes = {"image_size": 3 * c.patch_size, "width": 2 * head, "layers": 2, "heads": 2}
    return dataclasses.replace(c, **sizes, mlp_width=int(2 * head * c.mlp_width / c.width), embed_dim=96)


FAMILY = Family(name="vit", tower="vision", config=ViTConfig, build=VisionTransformer, narrow=narrow)
