"""Swin transformers (v1): attention within windows of a map, moved by half a window in every second block.

Sources: Liu et al. 2021 (arXiv 2103.14030); timm 1.0 `swin_transformer.SwinTransformer`.

Params:
    patch_embed/{kernel [P,P,3,C],bias}            [patch_embed.proj]
    patch_norm                                     [patch_embed.norm]
    stage{0..3}/merge/norm                         [layers.i.downsample.norm]; not in stage0
    stage{0..3}/merge/reduction/kernel [4C,2C]     [layers.i.downsample.reduction]
    stage{0..3}/blocks/...                         [layers.i.blocks.j]
        ln_1   ln_2                                [norm1, norm2]
        attn/{q,k,v,out}/{kernel,bias}             [attn.qkv, attn.proj]
        attn/table [(2w-1)^2,heads]                [attn.relative_position_bias_table]
        mlp/{c_fc,c_proj}/{kernel,bias}            [mlp.fc1, mlp.fc2]
    ln_post                                        [norm]
    head/{kernel,bias}                             [head.fc]
Stages: stem, layers.0.0, ..., layers.3.1, pooled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family
from clipjax.models.cut import whole
from clipjax.models.families.patches.vit import PatchEmbed
from clipjax.models.modules import layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.initializers import normal
from clipjax.models.modules.stages import maps_at, run_stages
from clipjax.models.modules.windows import WindowAttention

EXPANSION = 4  # of a block's MLP
MOVES = (False, True)  # whether the windows of even and of odd blocks are moved

# timm's `init_weights_vit_timm`, for every matrix and table.
_INIT = normal(0.02)


@dataclass(frozen=True)
class SwinConfig:
    """`depths`, `heads` and `windows` (sides in tokens) have one value per stage.

    `width` is the first stage's; each later stage has twice the channels and half the side.
    """

    image_size: int
    patch_size: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    activation: layers.Activation
    ln_eps: float
    embed_dim: int

    def __post_init__(self) -> None:
        stages = len(self.depths)
        if stages < 1 or {len(self.heads), len(self.windows)} != {stages}:
            raise ValueError(f"depths {list(self.depths)} need as many heads and windows")
        if any(depth < 2 or depth % 2 for depth in self.depths):
            raise ValueError(f"depths {list(self.depths)} are not pairs of blocks")
        cell = self.patch_size * 2 ** (stages - 1)
        multiple_of("image_size", self.image_size, cell)
        for i, window in enumerate(self.windows):
            multiple_of("width", self.dim(i), self.heads[i], "heads")
            if window < 1 or self.side(i) % window:
                raise ValueError(f"windows of {window} tokens do not fill the {self.side(i)} of stage {i}")
        if self.embed_dim != self.dim(stages - 1):
            raise ValueError(f"embed_dim {self.embed_dim} is not the last stage's, {self.dim(stages - 1)}")

    def dim(self, stage: int) -> int:
        return self.width * 2**stage

    def side(self, stage: int) -> int:
        """Tokens along a side of the map."""
        return self.image_size // self.patch_size // 2**stage


class Block(Layer):
    def __init__(self, dim: int, heads: int, window: int, config: SwinConfig, *, rngs: nnx.Rngs):
        self.ln_1 = layers.LayerNorm(dim, eps=config.ln_eps)
        self.attn = WindowAttention(
            dim, heads, window=(window, window), class_token=False, key_bias=True, init=_INIT, rngs=rngs
        )
        self.ln_2 = layers.LayerNorm(dim, eps=config.ln_eps)
        self.mlp = layers.Mlp(
            dim, EXPANSION * dim, activation=config.activation, fc_init=_INIT, proj_init=_INIT, rngs=rngs
        )
        self.moves = False

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = x + self.attn.of_map(self.ln_1(x), moves=self.moves)
        return x + self.mlp(self.ln_2(x))


class Merge(nnx.Module):
    """[B, H, W, C] -> [B, H / 2, W / 2, 2 C]: four neighbours, normalised together, through a matrix."""

    def __init__(self, dim: int, *, eps: float, rngs: nnx.Rngs):
        self.norm = layers.LayerNorm(4 * dim, eps=eps)
        self.reduction = layers.Linear(4 * dim, 2 * dim, use_bias=False, kernel_init=_INIT, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # The left two before the right two.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        return self.reduction(self.norm(x))


class Stage(nnx.Module):
    def __init__(self, index: int, config: SwinConfig, *, rngs: nnx.Rngs):
        c = config
        self.merge = Merge(c.dim(index - 1), eps=c.ln_eps, rngs=rngs) if index else None
        sizes = c.dim(index), c.heads[index], c.windows[index]
        self.blocks = sequence.stack(lambda rngs: Block(*sizes, c, rngs=rngs), c.depths[index], rngs)

    def __call__(self, x: Array, capture: bool) -> tuple[Array, Array | None]:
        # An even and an odd block differ in their moves, which are static: the scan runs over pairs.
        def step(x: Array, pair: Block) -> tuple[Array, Array | None]:
            pair, outputs = whole(pair), []
            for i, moves in enumerate(MOVES):
                block = jax.tree.map(lambda param, i=i: param[i], pair)
                block.moves = moves
                x = sequence.apply(block, x)
                outputs.append(x)
            return x, jnp.stack(outputs) if capture else None

        x = x if self.merge is None else self.merge(x)
        pairs = jax.tree.map(lambda param: param.reshape(-1, 2, *param.shape[1:]), self.blocks)
        x, outputs = jax.lax.scan(step, x, pairs)
        return x, None if outputs is None else outputs.reshape(-1, *x.shape)


class Swin(nnx.Module):
    def __init__(self, config: SwinConfig, rngs: nnx.Rngs):
        c = config
        self.patch_embed = PatchEmbed(c.patch_size, c.width, use_bias=True, rngs=rngs)
        self.patch_norm = layers.LayerNorm(c.width, eps=c.ln_eps)
        self.depth = len(c.depths)
        for i in range(self.depth):
            setattr(self, f"stage{i}", Stage(i, c, rngs=rngs))
        self.ln_post = layers.LayerNorm(c.embed_dim, eps=c.ln_eps)

    @property
    def stages(self) -> dict[str, Any]:
        return {f"layers.{i}": getattr(self, f"stage{i}") for i in range(self.depth)}

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        stem = self.stem(images)
        x, outputs = run_stages(self.stages, stem, capture)
        features = self.pooled(x)
        return features, {"stem": stem, **outputs, "pooled": features}

    def stem(self, images: Array) -> Array:
        return self.patch_norm(self.patch_embed(images))

    def pooled(self, x: Float[Array, "B h h E"]) -> Float[Array, "B E"]:
        """The mean over the map's cells, each normalised before."""
        return jnp.mean(self.ln_post(x), axis=(1, 2))


def narrow(config: SwinConfig) -> SwinConfig:
    """A small tower for tests, whose last stage has one window."""
    heads, windows = (2, 2, 4, 4), (3, 3, 3, 3)
    sizes = {"image_size": 3 * 8 * config.patch_size, "width": 16, "embed_dim": 128}
    return dataclasses.replace(config, depths=(2, 2, 4, 2), heads=heads, windows=windows, **sizes)


def dense(
    tower: Swin, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    """Stage 0: [B, S / P, S / P, width]."""
    return maps_at(tower.stages, tower.stem(images), at=stages)


FAMILY = Family(
    name="swin",
    tower="vision",
    config=SwinConfig,
    build=Swin,
    narrow=narrow,
    depth=lambda config: len(config.depths),
    dense=dense,
    cpu_options=layers.CPU_OPTIONS,
)
