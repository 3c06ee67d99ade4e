"""timm 1.0 `resnetv2.ResNetV2` as BiT has it."""

from __future__ import annotations

from typing import Any

from timm.layers.norm_act import GroupNormAct
from timm.layers.std_conv import StdConv2d
from timm.models import resnetv2
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import BRANCH_GAIN, scaled_normal

SMALL = 1e-3  # of norms' scales and of kernels: a kernel's variance is 100 times its eps


def timm_model(name: str, record: dict[str, Any], num_classes: int) -> nn.Module:
    """timm's name fixes the sizes, so a narrow one is built by what the name calls."""
    sizes = {"layers": record["depths"], "channels": record["widths"], "stem_chs": record["stem_width"]}
    variant = name.partition(".")[0]
    return resnetv2._create_resnetv2_bit(variant, width_factor=1, num_classes=num_classes, **sizes)


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    modules = {"stem": model.stem}
    for i, stage in enumerate(model.stages):
        modules |= numbered(f"stages.{i}", stage.blocks)
    modules |= {"head": model.norm, "pooled": model.head.global_pool}
    with recording(modules) as tensors:
        model(images)
    return tensors | {"pooled": tensors["pooled"].flatten(1)}


def condition(model: Any, seed: int) -> None:
    """Norms write so little that the next one's eps counts; small branches do not amplify rounding errors."""
    for module in model.modules():
        if isinstance(module, StdConv2d):
            module.weight.normal_(mean=SMALL / 2, std=SMALL)
        elif isinstance(module, GroupNormAct):
            size = 1.0 if module is model.norm else SMALL
            module.weight.uniform_(0.6, 1.4).mul_(size)
            module.bias.uniform_(-0.2, 0.2).mul_(size)
    for stage in model.stages:
        for block in stage.blocks:
            block.norm3.weight.mul_(BRANCH_GAIN)
            block.norm3.bias.mul_(BRANCH_GAIN)
    scaled_normal(model.head.fc.weight, 1.0)


TOWERS = [RecordedTower(lambda module: isinstance(module, resnetv2.ResNetV2), stages, condition)]
