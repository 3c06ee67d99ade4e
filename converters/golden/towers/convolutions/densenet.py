"""timm 1.0 `densenet.DenseNet`."""

from __future__ import annotations

from typing import Any

from timm.models.densenet import DenseNet
from torch import Tensor, nn

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import measure_batch_norms

# As a share of the layer's mean variance. torch's float32 differs from its float64 by 7e-5 without this
# bound, by 2e-5 with it.
LEAST_VARIANCE = 0.5


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    # timm's stem has twice the growth.
    return {"growth_rate": record["growth"], "block_config": tuple(record["depths"])}


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    features = model.features
    modules = {"stem": features.pool0}
    for i in (1, 2, 3, 4):
        block = getattr(features, f"denseblock{i}")
        modules |= {f"denseblock{i}.{j}": layer for j, layer in enumerate(block.values())}
        if i < 4:
            modules[f"transition{i}"] = getattr(features, f"transition{i}")
    modules["norm5"] = features.norm5
    with recording(modules, inputs_of={"pooled": model.classifier}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    """Keeps variances near their layer's mean: 120 layers that divide by small ones multiply rounding."""
    measure_batch_norms(model, 96, seed, {})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            variance: Any = module.running_var
            variance.clamp_(min=LEAST_VARIANCE * float(variance.mean()))


TOWERS = [RecordedTower(lambda module: isinstance(module, DenseNet), stages, condition)]
