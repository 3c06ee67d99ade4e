"""timm 1.0 `convnext.ConvNeXt`, alone or as the trunk of open_clip 3.3 `timm_model.TimmModel`."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import STREAM, scaled_normal


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    sizes = {"dims": list(record["widths"]), "depths": list(record["depths"])}
    # A classifier's hidden layer has the width of the features that its head reads.
    return sizes | ({"head_hidden_size": record["embed_dim"]} if record["projection"] == "hidden" else {})


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    trunk = trunk_of(model)
    blocks = {
        f"stages.{i}.{j}": block
        for i, stage in enumerate(trunk.stages)
        for j, block in enumerate(stage.blocks)
    }
    modules = {"stem": trunk.stem, **blocks, "pooled": trunk.head.flatten}
    if projects(model):
        modules["projected"] = model.head if isinstance(model, TimmModel) else trunk.head.pre_logits
    with recording(modules) as tensors:
        model(images)
    return tensors


def trunk_of(model: Any) -> Any:
    return model.trunk if isinstance(model, TimmModel) else model


def projects(model: Any) -> bool:
    return isinstance(model, TimmModel) or bool(model.head.hidden_size)


def condition(model: Any, seed: int) -> None:
    trunk = trunk_of(model)
    scaled_normal(trunk.stem[0].weight, STREAM)
    trunk.stem[0].bias.uniform_(-STREAM, STREAM)
    trunk.stem[1].weight *= STREAM
    trunk.stem[1].bias *= STREAM
    for stage in trunk.stages:
        if isinstance(stage.downsample, nn.Sequential):
            convolution: Any = stage.downsample[1]
            scaled_normal(convolution.weight, STREAM)
            convolution.bias.uniform_(-STREAM, STREAM)
        for block in stage.blocks:
            scaled_normal(block.conv_dw.weight, 1.0)
            block.conv_dw.bias.uniform_(-STREAM, STREAM)
            if block.gamma is not None:
                block.gamma.uniform_(0.6, 1.4).mul_(STREAM)
                continue
            block.mlp.grn.weight.uniform_(0.6, 1.4)
            block.mlp.grn.bias.uniform_(-0.2, 0.2)
            block.mlp.fc2.weight *= STREAM
            block.mlp.fc2.bias *= STREAM


def takes(module: nn.Module) -> bool:
    return isinstance(module, ConvNeXt) or (
        isinstance(module, TimmModel) and isinstance(module.trunk, ConvNeXt)
    )


TOWERS = [RecordedTower(takes, stages, condition)]
