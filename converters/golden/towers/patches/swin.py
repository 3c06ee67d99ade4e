"""timm 1.0 `swin_transformer.SwinTransformer`."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import ATTENTION_GAIN, STREAM, condition_residual, scaled_normal


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "img_size": record["image_size"],
        "embed_dim": record["width"],
        "depths": tuple(record["depths"]),
        "num_heads": tuple(record["heads"]),
        "window_size": tuple(record["windows"]),
    }


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    modules = {"stem": model.patch_embed}
    for i, stage in enumerate(model.layers):
        modules |= numbered(f"layers.{i}", stage.blocks)
    with recording(modules | {"pooled": model.head.global_pool}, turn=torch.clone) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    """Biases of scores count as much as scores."""
    scaled_normal(model.patch_embed.proj.weight, STREAM)
    model.patch_embed.proj.bias.mul_(STREAM)
    model.patch_embed.norm.weight.mul_(STREAM)
    model.patch_embed.norm.bias.mul_(STREAM)
    for stage in model.layers:
        if not isinstance(stage.downsample, nn.Identity):
            scaled_normal(stage.downsample.reduction.weight, STREAM)
        for block in stage.blocks:
            width = block.attn.qkv.in_features
            scaled_normal(block.attn.qkv.weight[: 2 * width], ATTENTION_GAIN)
            block.attn.relative_position_bias_table.normal_()
            condition_residual([(block.attn.proj, block.mlp.fc2)])


TOWERS = [RecordedTower(lambda module: isinstance(module, SwinTransformer), stages, condition)]
