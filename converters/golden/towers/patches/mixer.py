"""timm 1.0 `mlp_mixer.MlpMixer`."""

from __future__ import annotations

from typing import Any
from unittest import mock

import timm
from timm.models import mlp_mixer
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import STREAM, condition_residual, scaled_normal

GATE_GAIN = 0.02  # of what the norm inside gMLP's gate reads, so that its eps counts


def timm_model(name: str, record: dict[str, Any], num_classes: int) -> nn.Module:
    """timm's `create_model` cannot change width and depth; its function of that name sets the rest."""
    sizes = {"img_size": record["image_size"], "embed_dim": record["width"], "num_blocks": record["layers"]}

    def build(variant: str, pretrained: bool, **options: Any) -> MlpMixer:
        return MlpMixer(**{**options, **sizes}, num_classes=num_classes)

    with mock.patch.object(mlp_mixer, "_create_mixer", build):
        return timm.model_entrypoint(name)(pretrained=False)


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    modules = {"patch_embed": model.stem.proj, **numbered("blocks", model.blocks)}
    with recording(modules, inputs_of={"pooled": model.head}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    """ResMLP has no LayerNorm; the others' read small values."""
    if isinstance(model.norm, Affine):
        scaled_normal(model.stem.proj.weight, 1.0)
    else:
        scaled_normal(model.stem.proj.weight, STREAM)
        model.stem.proj.bias.mul_(STREAM)
    for module in model.modules():
        if isinstance(module, Affine):
            module.alpha.uniform_(0.6, 1.4)
            module.beta.uniform_(-0.2, 0.2)
    for block in model.blocks:
        condition_block(block)


def condition_block(block: Any) -> None:
    mlps: list[Any] = [block.mlp_channels]
    if isinstance(block, ResBlock):
        block.ls1.uniform_(0.6, 1.4)
        block.ls2.uniform_(0.6, 1.4)
        return
    if isinstance(block, SpatialGatingBlock):
        for tensor in (mlps[0].fc1.weight, mlps[0].fc1.bias):
            tensor.chunk(2)[1].mul_(GATE_GAIN)
    else:
        mlps.append(block.mlp_tokens)
    condition_residual((mlp.fc2,) for mlp in mlps)


TOWERS = [RecordedTower(lambda module: isinstance(module, MlpMixer), stages, condition)]
