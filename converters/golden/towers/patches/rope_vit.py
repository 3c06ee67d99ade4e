"""timm 1.0 `eva.Eva` as PE-Core (the trunk of open_clip 3.3 `timm_model.TimmModel`) and as DINOv3."""

from __future__ import annotations

from typing import Any

from timm.layers.mlp import SwiGLU
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from timm.models.eva import Eva
from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.towers.patches.timm_vit import (
    condition_patches,
    condition_pool,
    condition_pre_norm,
    timm_sizes,
    trunk_of,
)
from converters.golden.weights import ATTENTION_GAIN, STREAM, condition_residual, scaled_normal

__all__ = ["TOWERS", "is_rope_vit", "timm_sizes"]


def is_rope_vit(trunk: Any) -> bool:
    """Whether a timm `Eva` is a rotary ViT, not EVA: with attention pooling or DINOv3's rotary positions."""
    return isinstance(trunk, Eva) and (
        trunk.attn_pool is not None or isinstance(trunk.rope, RotaryEmbeddingDinoV3)
    )


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    trunk = trunk_of(model)
    modules = {"patch_embed": trunk.patch_embed.proj, **numbered("blocks", trunk.blocks)}
    with recording(modules, inputs_of={"embed": trunk.blocks[0], "pooled": trunk.head}) as tensors:
        features = model(images)
    return tensors if trunk is model else {**tensors, "projected": features}


def condition(model: Any, seed: int) -> None:
    trunk = trunk_of(model)
    for tokens in (trunk.cls_token, trunk.reg_token, trunk.pos_embed):
        if tokens is not None:
            tokens.normal_(std=STREAM)
    condition_patches(trunk)
    condition_pre_norm(trunk)
    for block in trunk.blocks:
        condition_block(block)
    if trunk.attn_pool is not None:
        condition_pool(trunk.attn_pool)


def condition_block(block: Any) -> None:
    width = block.attn.qkv.in_features
    scaled_normal(block.attn.qkv.weight[: 2 * width], ATTENTION_GAIN)
    if block.gamma_1 is None:
        condition_residual([(block.attn.proj, block.mlp.fc2)])
        return
    for gamma in (block.gamma_1, block.gamma_2):
        gamma.uniform_(0.6, 1.4).mul_(STREAM)
    if isinstance(block.mlp, SwiGLU):
        scaled_normal(block.mlp.fc1_g.weight, 1.0)
        block.mlp.fc1_g.bias.uniform_(-0.2, 0.2)


TOWERS = [RecordedTower(lambda module: is_rope_vit(trunk_of(module)), stages, condition)]
