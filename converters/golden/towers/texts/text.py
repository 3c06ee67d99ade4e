"""The text tower of open_clip 3.3: `model.CLIP` (the whole model) or `TextTransformer` (SigLIP)."""

from __future__ import annotations

from typing import Any

from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import STREAM, condition_residual, scaled_normal


def open_clip_sizes(record: dict[str, Any]) -> dict[str, Any]:
    names = ("context_length", "vocab_size", "width", "layers", "heads")
    ratio = (record["mlp_width"] + 0.5) / record["width"]
    return {name: record[name] for name in names} | {"mlp_ratio": ratio}


def stages(model: Any, ids: Tensor) -> dict[str, Tensor]:
    blocks = model.transformer.resblocks
    whole = isinstance(model, CLIP)
    forward, prefix = (model.encode_text, "text_") if whole else (model, "")
    with recording(numbered("blocks", blocks), inputs_of={"embed": blocks[0]}) as tensors:
        features = forward(ids)
    tokens = model.ln_final(tensors[f"blocks.{len(blocks) - 1}"])
    kind, end = getattr(model, f"{prefix}pool_type"), getattr(model, f"{prefix}eos_id", None)
    pooled = text_global_pool(tokens, ids, kind, eos_token_id=end)
    return {**tensors, "pooled": pooled, "projected": features}


def condition(model: Any, seed: int) -> None:
    model.positional_embedding.normal_(std=STREAM)
    model.token_embedding.weight.normal_(std=STREAM)
    condition_residual((block.attn.out_proj, block.mlp.c_proj) for block in model.transformer.resblocks)
    if isinstance(model.text_projection, nn.Parameter):  # a Linear is set by its class
        scaled_normal(model.text_projection.T, 1.0)


def takes(module: Any) -> bool:
    return isinstance(module, CLIP) or (isinstance(module, TextTransformer) and module.cls_emb is None)


TOWERS = [RecordedTower(takes, stages, condition)]
