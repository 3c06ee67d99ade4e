"""The plain vision transformer of CLIP, CoCa, SigLIP and MobileCLIP-B, and of timm's classifiers and DINOv2.

Sources: Dosovitskiy et al. 2021 (arXiv 2010.11929) section 3.1; Radford et al. 2021 (arXiv 2103.00020)
section 2.4 for the LayerNorm before the blocks; Touvron et al. 2022 (arXiv 2204.07118) for the class token
outside the position table and LayerScale; Touvron et al. 2020 (arXiv 2012.12877) section 4 for the
distillation token; Darcet et al. 2023 (arXiv 2309.16588) for registers; Vasu et al. 2024 (arXiv 2311.17049)
section 4 for the stem of convolutions; open_clip 3.3.0 `transformer.VisionTransformer` and timm 1.0
`vision_transformer.VisionTransformer` and `vision_transformer_hybrid.ConvStem`. Names are open_clip's.

Difference: new params are drawn as in open_clip, also for timm's variants.

Params, in parentheses those of some variants: patch_embed/kernel [P,P,3,D] (patch_embed/bias [D]), or with a
stem patch_embed/conv{0..}/kernel [p,p,I,O], (patch_embed/conv{last}/bias [D]), patch_embed/bn{0..}/{scale,
bias,mean,var} [O]; (class_embedding [D]), (register_embedding [R,D]), (distillation_embedding [D]),
positional_embedding [N,D], (ln_pre/{scale,bias}), blocks/{ln_1,ln_2}/{scale,bias},
blocks/attn/{q,k,v,out}/{kernel,bias}, (blocks/{ls_1,ls_2}/scale), blocks/mlp/{c_fc,c_proj}/{kernel,bias}
(pool/... as in attention_pools.py), ln_post/{scale,bias}, (proj [D,E]; [E,E] in CoCa;
proj/{kernel,bias} with a bias).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.guards import multiple_of
from clipjax.models.arch import Family, Positions, two_heads
from clipjax.models.modules import convolutions, layers, sequence, tokens
from clipjax.models.modules.attention_pools import CocaPool, MapPool
from clipjax.models.modules.initializers import normal, variance_scaling

LAYER_SCALE_INIT = 1e-5  # of timm's DINOv2


@dataclass(frozen=True)
class StemConfig:
    """Convolutions without overlap that make the patches; BatchNorm and activation follow all but the last.

    Attributes:
        sides: of each one's windows, in cells of the map that it reads. Their product is the patch's side.
        divisor: all but the last have the tower's width divided by this.
    """

    sides: tuple[int, ...]
    divisor: int
    activation: layers.Activation
    bn_eps: float


@dataclass(frozen=True)
class ViTConfig:
    """Sizes in pixels and channels.

    Attributes:
        crop_to_patches: cut off right and bottom pixels that fill no patch (SigLIP: 384 = 27 x 14 + 6).
        positions: the table has rows for "all" tokens, or for "patches" (the class token joins afterwards).
        pre_norm: a LayerNorm comes before the blocks.
        pooling: "class": the normalised class token; "distilled": it and the distillation token after it,
            side by side, each for its own head; "map": what SigLIP's query reads from the normalised tokens;
            "attention": what CoCa's first query reads, then normalised; "mean": the mean of the patches'
            tokens, then normalised (CLIPA).
        pool_queries: 0 without attention pooling.
        pool_heads: 0 without attention pooling.
        projection: a matrix maps the pooled vector to `embed_dim` channels.
        projection_bias: with a bias (a timm trunk's own head); None: without.
        registers: learned tokens between the class token and the patches that nothing reads; None: none.
        stem: in place of one matrix for each patch; None: that matrix.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    crop_to_patches: bool
    patch_bias: bool
    class_token: bool
    positions: Literal["all", "patches"]
    pre_norm: bool
    layer_scale: bool
    activation: layers.Activation
    ln_eps: float
    pooling: Literal["class", "distilled", "map", "attention", "mean"]
    pool_queries: int
    pool_heads: int
    projection: bool
    embed_dim: int
    registers: int | None = None
    projection_bias: Literal[True] | None = None
    stem: StemConfig | None = None

    def __post_init__(self) -> None:
        if not self.crop_to_patches:
            multiple_of("image_size", self.image_size, self.patch_size, "patch_size")
        multiple_of("width", self.width, self.heads, "heads")
        self._check_pooling()
        self._check_stem()
        if self.registers is not None and (
            self.registers < 1 or (self.pooling, self.positions) != ("class", "patches")
        ):
            raise ValueError(
                f"{self.registers} registers: give 1 or more, pooling 'class' and positions 'patches'"
            )

    def _check_stem(self) -> None:
        if self.stem is None:
            return
        sides, divisor = self.stem.sides, self.stem.divisor
        if len(sides) < 2 or min(sides) < 1 or math.prod(sides) != self.patch_size:
            raise ValueError(
                f"the stem's sides {list(sides)} are not two or more whose product is {self.patch_size}"
            )
        multiple_of("width", self.width, divisor, "the stem's divisor")

    def _check_pooling(self) -> None:
        if not self.class_token and (self.pooling == "class" or self.positions == "all"):
            raise ValueError("pooling 'class' and positions 'all' need class_token = true")
        if self.projection_bias and not self.projection:
            raise ValueError("projection_bias needs projection = true")
        if self.pooling == "distilled" and (self.positions != "all" or self.projection):
            raise ValueError("pooling 'distilled' needs positions = 'all' and projection = false")
        pooled = self.embed_dim if self.pooling == "attention" else self.read_tokens * self.width
        if not self.projection and pooled != self.embed_dim:
            times = "twice " * (self.read_tokens - 1)
            raise ValueError(f"without a projection embed_dim is {times}the width, {self.width}")
        if self.pooling in ("class", "distilled", "mean"):
            if self.pool_queries or self.pool_heads:
                raise ValueError(f"pooling {self.pooling!r} has pool_queries 0 and pool_heads 0")
            return
        if self.pool_queries < 1 or (self.pooling == "map" and self.pool_queries > 1):
            raise ValueError(f"pooling {self.pooling!r} cannot have {self.pool_queries} pool_queries")
        multiple_of("the pooled width", pooled, self.pool_heads, "pool_heads")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def read_tokens(self) -> int:
        """Vectors that make up the features."""
        return 2 if self.pooling == "distilled" else 1

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + int(self.pooling == "distilled") + (self.registers or 0)

    @property
    def table_prefix(self) -> int:
        """Rows of the position table before the patches'."""
        return self.prefix if self.positions == "all" else 0


class PatchEmbed(nnx.Module):
    """A linear layer on patches of P x P pixels; h is H // P, w is W // P."""

    def __init__(self, patch: int, width: int, *, use_bias: bool, rngs: nnx.Rngs):
        self.kernel = nnx.Param(layers.torch_uniform(rngs.params(), (patch, patch, 3, width), jnp.float32))
        init = layers.uniform((patch * patch * 3) ** -0.5)
        self.bias = nnx.Param(init(rngs.params(), (width,), jnp.float32)) if use_bias else None

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        kernel = self.kernel[...]
        patch, _, channels, width = kernel.shape
        batch, height, wide, _ = images.shape
        rows, cols = height // patch, wide // patch
        x = images[:, : rows * patch, : cols * patch]
        x = x.reshape(batch, rows, patch, cols, patch, channels).transpose(0, 1, 3, 2, 4, 5)
        # One product a pass. It means JAX's own gradient in every mode, not the forms of `Linear`.
        x = x.reshape(batch, rows, cols, -1) @ kernel.reshape(-1, width)
        return x if self.bias is None else x + self.bias[...]


class ConvStem(nnx.Module):
    """Patches from several convolutions; h is H // P, w is W // P."""

    def __init__(self, config: StemConfig, width: int, *, use_bias: bool, rngs: nnx.Rngs):
        last, in_dim = len(config.sides) - 1, 3
        for i, side in enumerate(config.sides):
            dim = width if i == last else width // config.divisor
            flags = {"kernel": side, "stride": side, "padding": "none", "use_bias": use_bias and i == last}
            setattr(self, f"conv{i}", convolutions.Conv(in_dim, dim, **flags, rngs=rngs))
            if i != last:
                setattr(self, f"bn{i}", convolutions.BatchNorm(dim, eps=config.bn_eps))
            in_dim = dim
        self.last, self.activation = last, layers.ActivationLayer(config.activation)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        x = images
        for i in range(self.last):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = self.activation(x)
        return getattr(self, f"conv{self.last}")(x)


class VisionTransformer(nnx.Module):
    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        c, scale = config, config.width**-0.5
        self.config = config
        bias = {"use_bias": c.patch_bias, "rngs": rngs}
        self.patch_embed = (
            PatchEmbed(c.patch_size, c.width, **bias) if c.stem is None else ConvStem(c.stem, c.width, **bias)
        )
        table = (c.grid**2 + c.table_prefix, c.width)
        self.class_embedding = nnx.Param(normal(scale)(rngs.params(), (c.width,))) if c.class_token else None
        registers = (c.registers, c.width)
        self.register_embedding = nnx.Param(normal(1e-6)(rngs.params(), registers)) if c.registers else None
        distilled = c.pooling == "distilled"
        self.distillation_embedding = (
            nnx.Param(normal(scale)(rngs.params(), (c.width,))) if distilled else None
        )
        self.positional_embedding = nnx.Param(normal(scale)(rngs.params(), table))
        self.ln_pre = layers.LayerNorm(c.width, eps=c.ln_eps) if c.pre_norm else None
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
            layer_scale=LAYER_SCALE_INIT if c.layer_scale else None,
        )
        self.blocks = sequence.stack(lambda rngs: block(rngs=rngs), c.layers, rngs)
        self.pool = _pool(c, rngs)
        pooled = c.embed_dim if c.pooling == "attention" else c.width
        self.ln_post = layers.LayerNorm(pooled, eps=c.ln_eps)
        self.proj = _projection(c, pooled, rngs)

    def __call__(
        self, images: Float[Array, "B S S 3"], capture: bool
    ) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        patches = self.patches(images)
        embedded = self.embed(patches)
        x, outputs = sequence.scan(self.blocks, embedded, capture=capture)
        pooled = self.pooled(x)
        if self.proj is None:
            features = pooled
        elif isinstance(self.proj, layers.Linear):  # with a bias
            features = self.proj(pooled)
        else:
            features = pooled @ self.proj[...]
        return features, tokens.stages(
            patches, embedded, outputs, pooled, None if self.proj is None else features
        )

    def patches(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        return self.patch_embed(images)

    def embed(self, patches: Float[Array, "B h w D"]) -> Float[Array, "B N D"]:
        x = patches.reshape(len(patches), -1, patches.shape[-1])
        if self.config.positions == "patches":
            x = x + self.positional_embedding[...]
        x = tokens.prepend(x, self.class_embedding, self.distillation_embedding, self.register_embedding)
        if self.config.positions == "all":
            x = x + self.positional_embedding[...]
        return x if self.ln_pre is None else self.ln_pre(x)

    def pooled(self, x: Float[Array, "B N D"]) -> Float[Array, "B P"]:
        """The vector that is projected; P is D, in CoCa E, with two tokens read 2 D."""
        if self.config.pooling == "distilled":
            return self.ln_post(x[:, :2]).reshape(len(x), -1)
        if self.config.pooling == "mean":
            return self.ln_post(x[:, self.config.prefix :].mean(axis=1))
        if self.pool is None:
            return self.ln_post(x[:, 0])
        if self.config.pooling == "map":
            return self.pool(self.ln_post(x))
        return self.ln_post(self.pool(x))


def _projection(config: ViTConfig, pooled: int, rngs: nnx.Rngs) -> nnx.Param | layers.Linear | None:
    c, init = config, normal(config.width**-0.5)
    if c.projection_bias:
        return layers.Linear(pooled, c.embed_dim, kernel_init=init, rngs=rngs)
    return nnx.Param(init(rngs.params(), (pooled, c.embed_dim))) if c.projection else None


def _pool(config: ViTConfig, rngs: nnx.Rngs) -> MapPool | CocaPool | None:
    c = config
    if c.pooling == "map":
        return MapPool(
            c.width, c.pool_heads, c.mlp_width, activation=c.activation, ln_eps=c.ln_eps, rngs=rngs
        )
    if c.pooling == "attention":
        return CocaPool(c.embed_dim, c.width, c.pool_heads, c.pool_queries, ln_eps=c.ln_eps, rngs=rngs)
    return None


def dense(
    tower: VisionTransformer, images: Float[Array, "B H W 3"], blocks: Sequence[int]
) -> list[Float[Array, "B h w D"]]:
    patches = tower.patches(images)
    outputs = sequence.scan_at(tower.blocks, tower.embed(patches), at=blocks)
    return [x[:, tower.config.prefix :].reshape(patches.shape) for x in outputs]


def narrow(config: ViTConfig) -> ViTConfig:
    c, sizes = config, two_heads(config)
    sizes["image_size"] = 3 * c.patch_size + c.image_size % c.patch_size
    sizes["embed_dim"] = 96 if c.projection else c.read_tokens * sizes["width"]
    if c.pooling == "map":
        sizes |= {"pool_heads": 2}
    if c.pooling == "attention":
        sizes |= {"pool_queries": 5}
    return dataclasses.replace(c, **sizes)


def positions(config: ViTConfig) -> Positions:
    """open_clip resamples its own towers (with a matrix without bias), timm the others.

    probe3d counts the tokens of open_clip's towers and of DeiT III (whose class token has no row). DINOv2 has
    LayerScale and a class token with a row. With registers it has neither such a row nor another rule.
    """
    own = config.projection and not config.projection_bias
    rule = "open_clip" if own else "timm"
    deit3 = config.positions == "patches" and config.class_token and not (config.registers or config.stem)
    counts = own or deit3
    dinov2 = config.layer_scale and config.positions == "all"
    probe3d = "count" if counts else "dinov2" if dinov2 else None
    return Positions("positional_embedding", config.table_prefix, config.grid, rule, probe3d=probe3d)


FAMILY = Family(
    name="vit",
    tower="vision",
    config=ViTConfig,
    build=VisionTransformer,
    narrow=narrow,
    dense=dense,
    depth=lambda config: config.layers,
    patch=lambda config: config.patch_size,
    batch_attention=lambda config: config.projection and not config.projection_bias,
    positions=positions,
    heads=lambda config: config.read_tokens,
    cpu_options=layers.CPU_OPTIONS,
)
