"""timm 1.0 `fastvit.FastVit` as the trunk of open_clip 3.3 `timm_model.TimmModel`."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.fastvit import AttentionBlock, FastVit, LayerScale2d
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import ATTENTION_GAIN, BRANCH_GAIN, measure_batch_norms, scaled_normal

# Gain of a squeeze-excitation: at SE_GAIN the gates of the last map amplify their own rounding errors.
GATE_GAIN = 2.0


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {"layers": record["depths"], "embed_dims": record["widths"]}


def stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    trunk = visual.trunk
    blocks = {
        f"stages.{i}.{j}": block
        for i, stage in enumerate(trunk.stages)
        for j, block in enumerate(stage.blocks)
    }
    ends = {"final": trunk.final_conv, "pooled": trunk.head.global_pool}
    with recording({"stem": trunk.stem, **blocks, **ends}) as tensors:
        features = visual(images)
    return {**tensors, "projected": features}


def condition(visual: Any, seed: int) -> None:
    """Branches are small, and their norms read small maps, so that every eps counts."""
    for name, module in visual.trunk.named_modules():
        if isinstance(module, LayerScale2d):
            module.gamma.uniform_(0.6, 1.4).mul_(BRANCH_GAIN)
        elif name.endswith((".se.fc1", ".se.fc2")):
            scaled_normal(module.weight, GATE_GAIN)
        elif name.endswith((".mlp.fc1", ".mlp.fc2")):
            scaled_normal(module.weight, 1.0)
        elif isinstance(module, AttentionBlock):
            attention: Any = module.token_mixer
            scaled_normal(attention.qkv.weight[: 2 * attention.qkv.in_features], ATTENTION_GAIN)
        elif name.endswith(".pos_emb.pos_enc") and isinstance(module, nn.Conv2d):
            scaled_normal(module.weight, BRANCH_GAIN)
    measure_batch_norms(visual, 128, seed, {})


def takes(module: Any) -> bool:
    return isinstance(module, TimmModel) and isinstance(module.trunk, FastVit)


TOWERS = [RecordedTower(takes, stages, condition)]
