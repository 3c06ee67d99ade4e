"""timm 1.0 `vgg.VGG`."""

from __future__ import annotations

from typing import Any

from timm.models.vgg import VGG
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import measure_batch_norms, scaled_normal


def timm_model(name: str, record: dict[str, Any], num_classes: int) -> nn.Module:
    """timm's `create_model` cannot change widths and depths; the name decides the norm."""
    cfg: list[Any] = []
    for width, depth in zip(record["widths"], record["depths"], strict=True):
        cfg += [width] * depth + ["M"]
    norm = nn.BatchNorm2d if name.partition(".")[0].endswith("_bn") else None
    return VGG(
        cfg, num_classes=num_classes, mlp_ratio=record["hidden"] / record["embed_dim"], norm_layer=norm
    )


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    relus = {f"features.{n}": layer for n, layer in enumerate(model.features) if isinstance(layer, nn.ReLU)}
    head = {"fc1": model.pre_logits.act1, "fc2": model.pre_logits.act2, "pooled": model.head.global_pool}
    with recording({**relus, **head}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    """Without BatchNorm a convolution keeps the size of its input.

    BatchNorms add about 1: most numbers pass their ReLU, as in no trained net, but 13 ReLUs that cut half of
    them, without a residual path, amplify rounding errors five times (in float32 against float64).
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.bias.uniform_(0.6, 1.4)
    if not norms:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                scaled_normal(module.weight, 2**0.5)
    measure_batch_norms(model, 224, seed, {})


TOWERS = [RecordedTower(lambda module: isinstance(module, VGG), stages, condition)]
