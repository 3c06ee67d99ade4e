"""timm 1.0 `eva.Eva` as the trunk of open_clip 3.3 `timm_model.TimmModel`."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.layers.mlp import SwiGLU
from timm.models.eva import Eva, EvaBlockPostNorm
from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.towers.patches import beit
from converters.golden.towers.patches.rope_vit import is_rope_vit
from converters.golden.weights import ATTENTION_GAIN, STREAM, condition_residual, scaled_normal

timm_sizes = beit.timm_sizes


def stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    trunk = visual.trunk
    modules = {"patch_embed": trunk.patch_embed.proj, **numbered("blocks", trunk.blocks)}
    with recording(modules, inputs_of={"embed": trunk.blocks[0], "pooled": trunk.head}) as tensors:
        features = visual(images)
    return {**tensors, "projected": features}


def condition(visual: Any, seed: int) -> None:
    trunk = visual.trunk
    trunk.pos_embed.normal_(std=STREAM)
    trunk.cls_token.normal_(std=STREAM)
    scaled_normal(trunk.patch_embed.proj.weight, STREAM)
    trunk.patch_embed.proj.bias.mul_(STREAM)
    condition_residual((block.attn.proj, block.mlp.fc2) for block in trunk.blocks)
    for block in trunk.blocks:
        condition_attention(block.attn)
        if isinstance(block.mlp, SwiGLU):  # small, so that the inner norm's eps counts
            condition_residual([(block.mlp.fc1_x,)])
        if isinstance(block, EvaBlockPostNorm):
            condition_post_norm(block)


def condition_attention(attn: Any) -> None:
    if attn.qkv is None:
        for linear in (attn.q_proj, attn.k_proj):
            scaled_normal(linear.weight, ATTENTION_GAIN)
        condition_residual([(attn.v_proj,)])
        return
    # One matrix for all three: the rows of queries, of keys, then of values.
    query_key, _ = attn.qkv.weight.split([2 * attn.q_bias.numel(), attn.q_bias.numel()])
    scaled_normal(query_key, ATTENTION_GAIN)
    attn.q_bias.uniform_(-0.2, 0.2)
    attn.v_bias.uniform_(-0.2, 0.2)


def condition_post_norm(block: Any) -> None:
    """The norms write the stream, so they are small; layers that read it directly compensate.

    It grows to about twice STREAM; queries and keys compensate, so that attention chooses no harder.
    """
    for norm in (block.norm1, block.norm2):
        norm.weight.mul_(STREAM)
        norm.bias.mul_(STREAM)
    width = block.attn.q_bias.numel()
    query_key, value = block.attn.qkv.weight.split([2 * width, width])
    query_key.mul_(0.5 / STREAM)
    value.mul_(1 / STREAM)
    block.mlp.fc1.weight.mul_(1 / STREAM)


def takes(module: Any) -> bool:
    return isinstance(module, TimmModel) and isinstance(module.trunk, Eva) and not is_rope_vit(module.trunk)


TOWERS = [RecordedTower(takes, stages, condition)]
