"""timm 1.0 `vision_transformer.VisionTransformer`, alone or as the trunk of open_clip 3.3 `TimmModel`."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import torch
from open_clip.timm_model import TimmModel
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.layer_scale import LayerScale
from timm.models import vision_transformer_hybrid as hybrid
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import (
    ATTENTION_GAIN,
    STREAM,
    condition_residual,
    measure_batch_norms,
    scaled_normal,
)


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    stem = {"embed_layer": stem_embedding(record)} if "stem" in record else {}
    return stem | {
        "img_size": record["image_size"],
        "embed_dim": record["width"],
        "depth": record["layers"],
        "num_heads": record["heads"],
        # timm truncates width x ratio: the half keeps it off the edge.
        "mlp_ratio": (record["mlp_width"] + 0.5) / record["width"],
    }


def stem_embedding(record: dict[str, Any]) -> Any:
    """The patches of timm's `vit_base_mci_224`, which fixes its stem's widths, with other widths."""
    stem: Any = hybrid.ConvStem
    width = record["width"]

    def narrow(**options: Any) -> Any:
        inner = [width // record["stem"]["divisor"]] * (len(options["channels"]) - 1)
        return stem(**options | {"channels": (*inner, width)})

    def embedding(name: str, backbone: Any, embed_args: dict[str, Any], **_: Any) -> Any:
        return functools.partial(HybridEmbed, backbone=backbone, **embed_args)

    with mock.patch.multiple(hybrid, ConvStem=narrow, _create_vision_transformer_hybrid=embedding):
        return hybrid.vit_base_mci_224()


def trunk_of(model: Any) -> Any:
    return model.trunk if isinstance(model, TimmModel) else model


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    trunk = trunk_of(model)
    modules = {"patch_embed": trunk.patch_embed.proj, **numbered("blocks", trunk.blocks)}
    projects = isinstance(model, TimmModel) and isinstance(trunk.head, nn.Linear)
    modules |= {"projected": trunk.head} if projects else {}
    inputs_of = {"embed": trunk.blocks[0], "pooled": trunk.head}
    distilled = isinstance(trunk, VisionTransformerDistilled)
    if distilled:
        inputs_of["distilled"] = trunk.head_dist
    with recording(modules, inputs_of=inputs_of) as tensors:
        model(images)
    if distilled:  # what the two heads read, not the mean of it that timm calls features
        tensors["pooled"] = torch.cat([tensors["pooled"], tensors.pop("distilled")], dim=-1)
    return tensors


def condition(model: Any, seed: int) -> None:
    trunk = trunk_of(model)
    distilled = isinstance(trunk, VisionTransformerDistilled)
    trunk.pos_embed.normal_(std=STREAM)
    if isinstance(trunk.patch_embed, HybridEmbed):
        condition_stem(trunk.patch_embed, seed)
    else:
        condition_patches(trunk)
    if trunk.cls_token is not None:
        trunk.cls_token.normal_(std=STREAM)
    if trunk.reg_token is not None:
        trunk.reg_token.normal_(std=STREAM)
    if distilled:
        trunk.dist_token.normal_(std=STREAM)
    condition_pre_norm(trunk)
    for block in trunk.blocks:
        condition_block(block)
    if trunk.attn_pool is not None:
        condition_pool(trunk.attn_pool)


def condition_patches(trunk: Any) -> None:
    scaled_normal(trunk.patch_embed.proj.weight, STREAM)
    if trunk.patch_embed.proj.bias is not None:
        trunk.patch_embed.proj.bias.mul_(STREAM)


def condition_stem(embed: Any, seed: int) -> None:
    last = embed.backbone[-1].conv
    scaled_normal(last.weight, STREAM)
    last.bias.mul_(STREAM)
    measure_batch_norms(embed.backbone, embed.img_size[0], seed, {})


def condition_pre_norm(trunk: Any) -> None:
    if isinstance(trunk.norm_pre, nn.LayerNorm):
        trunk.norm_pre.weight.mul_(STREAM)
        trunk.norm_pre.bias.mul_(STREAM)


def condition_block(block: Any) -> None:
    width = block.attn.qkv.in_features
    scaled_normal(block.attn.qkv.weight[: 2 * width], ATTENTION_GAIN)
    if isinstance(block.ls1, LayerScale):
        for scale in (block.ls1, block.ls2):
            scale.gamma.uniform_(0.6, 1.4).mul_(STREAM)
    else:
        condition_residual([(block.attn.proj, block.mlp.fc2)])


def condition_pool(pool: Any) -> None:
    """The query reads small values, so that the next norm's eps counts."""
    pool.latent.normal_()
    scaled_normal(pool.q.weight, ATTENTION_GAIN)
    scaled_normal(pool.kv.weight[: pool.kv.in_features], ATTENTION_GAIN)
    condition_residual([(pool.proj, pool.mlp.fc2)])


def takes(module: nn.Module) -> bool:
    return isinstance(trunk_of(module), VisionTransformer)


TOWERS = [RecordedTower(takes, stages, condition)]
