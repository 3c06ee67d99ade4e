"""timm 1.0 `efficientnet.EfficientNet` and `mobilenetv3.MobileNetV3`."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import timm
from timm.models import efficientnet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import BRANCH_GAIN, SE_GAIN, measure_batch_norms, scaled_normal

# Pixels at which BatchNorm's statistics are measured: if the last maps have few values, MobileNetV3 amplifies
# its rounding errors.
MEASURED = 224


def timm_model(name: str, record: dict[str, Any], num_classes: int) -> Any:
    """The record's channels and depths, unless these are lists; timm's own flags.

    timm 1.0 does not accept `block_args` beside an architecture's name, so its class is replaced meanwhile.
    """
    with mock.patch.object(efficientnet, "EfficientNet", functools.partial(_narrow, record)):
        return timm.create_model(name, num_classes=num_classes)


def _narrow(record: dict[str, Any], block_args: list[list[dict[str, Any]]], **options: Any) -> EfficientNet:
    stages = [
        [{**block, "out_chs": stage["width"]} for block in blocks[: stage["depth"]]]
        for blocks, stage in zip(block_args, record["stages"])
    ]
    options |= {"stem_size": record["stem_width"], "num_features": record["embed_dim"], "round_chs_fn": int}
    return EfficientNet(block_args=stages, **options)


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    blocks = {
        f"blocks.{i}.{j}": block for i, stage in enumerate(model.blocks) for j, block in enumerate(stage)
    }
    pooled = {"pooled": model.global_pool}
    # MobileNetV3 pools before its last convolution, and keeps sides of 1 until after it.
    ends = pooled | {"hidden": model.flatten} if is_v3(model) else {"head": model.bn2} | pooled
    with recording({"stem": model.bn1, **blocks, **ends}) as tensors:
        model(images)
    return tensors | {"pooled": tensors["pooled"].flatten(1)}


def is_v3(module: nn.Module) -> bool:
    return isinstance(module, MobileNetV3)


def condition(model: Any, seed: int) -> None:
    gains = {}
    for name, block in model.named_modules():
        if getattr(block, "has_skip", False):
            # The end of the residual branch: bn1, bn2, ... are in the order of their use.
            last = max(norm for norm, _ in block.named_children() if norm.startswith("bn"))
            gains[f"{name}.{last}"] = BRANCH_GAIN
        if name.endswith((".se.conv_reduce", ".se.conv_expand")):
            scaled_normal(block.weight, SE_GAIN)
    measure_batch_norms(model, MEASURED, seed, gains)


TOWERS = [RecordedTower(lambda module: isinstance(module, EfficientNet) or is_v3(module), stages, condition)]
