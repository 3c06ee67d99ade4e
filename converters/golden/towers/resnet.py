"""timm 1.0 `resnet.ResNet`."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from converters.golden.recording import Tower, recording
from converters.golden.weights import BRANCH_GAIN, SE_GAIN, measure_batch_norms, scaled_normal

EXPANSION = 4


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    expansion = EXPANSION if record["block"] == "bottleneck" else 1
    channels = tuple(width // expansion for width in record["widths"])
    return {"layers": tuple(record["layers"]), "channels": channels}


def blocks_of(model: Any) -> dict[str, Any]:
    return {
        f"layer{s}.{j}": block for s in (1, 2, 3, 4) for j, block in enumerate(getattr(model, f"layer{s}"))
    }


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    with recording({"stem": model.maxpool, **blocks_of(model), "pooled": model.global_pool}) as found:
        model(images)
    return found


def condition(model: Any, seed: int) -> None:
    """Small residual branches, and squeeze-excite gates that differ from a constant half."""
    gains: dict[str, float] = {}
    for name, block in blocks_of(model).items():
        gains[f"{name}.bn{3 if isinstance(block, Bottleneck) else 2}"] = BRANCH_GAIN
        se: Any = block.se
        if se is not None:
            for conv in (se.fc1, se.fc2):
                scaled_normal(conv.weight, SE_GAIN)
    measure_batch_norms(model, 64, seed, gains)


def takes(module: nn.Module) -> bool:
    return isinstance(module, ResNet)


TOWERS = [Tower(takes, stages, condition)]
