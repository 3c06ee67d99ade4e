"""open_clip 3.3 `transformer.VisionTransformer`, CoCa's too; timm's are in timm_vit.py."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import LayerScale, VisionTransformer
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.towers.patches.timm_vit import timm_sizes
from converters.golden.weights import ATTENTION_GAIN, STREAM, condition_residual, scaled_normal

__all__ = ["TOWERS", "open_clip_sizes", "timm_sizes"]


def open_clip_sizes(record: dict[str, Any]) -> dict[str, Any]:
    names = ("image_size", "patch_size", "width", "layers")
    # open_clip truncates width x ratio: the half keeps it off the edge.
    ratio = (record["mlp_width"] + 0.5) / record["width"]
    sizes = {name: record[name] for name in names}
    sizes |= {"head_width": record["width"] // record["heads"], "mlp_ratio": ratio}
    return sizes | ({"attn_pooler_queries": record["pool_queries"]} if record["pool_queries"] else {})


def stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    blocks = visual.transformer.resblocks
    modules = {"patch_embed": visual.conv1, **numbered("blocks", blocks)}
    with recording(modules, inputs_of={"embed": blocks[0]}) as tensors:
        features = visual(images)
    features = features[0] if visual.output_tokens else features
    pooled, _ = visual._pool(tensors[f"blocks.{len(blocks) - 1}"])
    return {**tensors, "pooled": pooled, "projected": features}


def condition(visual: Any, seed: int) -> None:
    visual.positional_embedding.normal_(std=STREAM)
    for block in visual.transformer.resblocks:
        condition_block(block)
    scaled_normal(visual.conv1.weight, STREAM)
    visual.class_embedding.normal_(std=STREAM)
    if isinstance(visual.ln_pre, nn.LayerNorm):
        visual.ln_pre.weight.mul_(STREAM)
        visual.ln_pre.bias.mul_(STREAM)
    scaled_normal(visual.proj.T, 1.0)
    if visual.attn_pool is not None:
        condition_pool(visual.attn_pool)


def condition_block(block: Any) -> None:
    if isinstance(block.ls_1, LayerScale):
        for scale in (block.ls_1, block.ls_2):
            scale.gamma.uniform_(0.6, 1.4).mul_(STREAM)
    else:
        condition_residual([(block.attn.out_proj, block.mlp.c_proj)])


def condition_pool(pool: Any) -> None:
    pool.query.normal_(std=STREAM)
    scaled_normal(pool.attn.q_proj_weight, ATTENTION_GAIN)
    scaled_normal(pool.attn.k_proj_weight, ATTENTION_GAIN)
    scaled_normal(pool.attn.v_proj_weight, 1.0)
    pool.attn.in_proj_bias.uniform_(-0.2, 0.2)
    condition_residual([(pool.attn.out_proj,)])


TOWERS = [RecordedTower(lambda module: isinstance(module, VisionTransformer), stages, condition)]
