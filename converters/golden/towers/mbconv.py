"""timm 1.0 `efficientnet.EfficientNet`."""

from __future__ import annotations

from typing import Any

from timm.models.efficientnet import EfficientNet
from torch import Tensor

from converters.golden.recording import Tower, recording
from converters.golden.weights import measure_batch_norms


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return {}  # a narrow record has smaller images only, and timm's EfficientNet takes any


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    blocks = {
        f"blocks.{i}.{j}": block for i, stage in enumerate(model.blocks) for j, block in enumerate(stage)
    }
    with recording({"stem": model.bn1, **blocks, "head": model.bn2, "pooled": model.global_pool}) as found:
        model(images)
    return found


def condition(model: Any, seed: int) -> None:
    measure_batch_norms(model, model.pretrained_cfg["input_size"][-1], seed, {})


TOWERS = [Tower(lambda module: isinstance(module, EfficientNet), stages, condition)]
