"""timm 1.0 `beit.Beit`."""

from __future__ import annotations

from typing import Any

from timm.models.beit import Beit
from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import ATTENTION_GAIN, STREAM, scaled_normal


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "img_size": record["image_size"],
        "embed_dim": record["width"],
        "depth": record["layers"],
        "num_heads": record["heads"],
        # timm truncates width x ratio: the half keeps it off the edge.
        "mlp_ratio": (record["mlp_width"] + 0.5) / record["width"],
    }


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    modules = {"patch_embed": model.patch_embed.proj, **numbered("blocks", model.blocks)}
    modules["pooled"] = model.fc_norm
    with recording(modules, inputs_of={"embed": model.blocks[0]}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    """LayerScale keeps branches small; biases are as large as the scores."""
    scaled_normal(model.patch_embed.proj.weight, STREAM)
    model.patch_embed.proj.bias.mul_(STREAM)
    model.cls_token.normal_(std=STREAM)
    for block in model.blocks:
        width = block.attn.qkv.in_features
        scaled_normal(block.attn.qkv.weight[: 2 * width], ATTENTION_GAIN)
        for bias in (block.attn.q_bias, block.attn.v_bias):
            bias.uniform_(-0.2, 0.2)
        block.attn.relative_position_bias_table.normal_()
        for scale in (block.gamma_1, block.gamma_2):
            scale.uniform_(0.6, 1.4).mul_(STREAM)


TOWERS = [RecordedTower(lambda module: isinstance(module, Beit), stages, condition)]
