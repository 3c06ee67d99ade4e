"""open_clip 3.3 `transformer.VisionTransformer`."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import VisionTransformer
from torch import Tensor

from converters.golden.condition import STREAM, condition_residual, scaled_normal
from converters.golden.recording import Tower, numbered, recording


def open_clip_sizes(record: dict[str, Any]) -> dict[str, Any]:
    names = ("image_size", "patch_size", "width", "layers")
    # open_clip takes the integer part of width x ratio: the half keeps it off the edge.
    ratio = (record["mlp_width"] + 0.5) / record["width"]
    return {name: record[name] for name in names} | {
        "head_width": record["width"] // record["heads"],
        "mlp_ratio": ratio,
    }


def stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    blocks = visual.transformer.resblocks
    modules = {"patch_embed": visual.conv1, **numbered("blocks", blocks)}
    with recording(modules, inputs_of={"embed": blocks[0]}) as found:
        features = visual(images)
    pooled, _ = visual._pool(found[f"blocks.{len(blocks) - 1}"])
    return {**found, "pooled": pooled, "projected": features}


def condition(visual: Any, seed: int) -> None:
    visual.positional_embedding.normal_(std=STREAM)
    condition_residual((block.attn.out_proj, block.mlp.c_proj) for block in visual.transformer.resblocks)
    scaled_normal(visual.conv1.weight, STREAM)
    visual.class_embedding.normal_(std=STREAM)
    visual.ln_pre.weight *= STREAM
    visual.ln_pre.bias *= STREAM
    scaled_normal(visual.proj.T, 1.0)


def takes(module: Any) -> bool:
    return isinstance(module, VisionTransformer) and module.attn_pool is None


TOWERS = [Tower(takes, stages, condition)]
