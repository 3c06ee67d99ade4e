"""timm 1.0 `densenet.DenseNet`."""

from __future__ import annotations

from typing import Any

from timm.models.densenet import DenseNet
from torch import Tensor

from converters.golden.recording import Tower, recording
from converters.golden.weights import measure_batch_norms


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
    with recording(modules, inputs_of={"pooled": model.classifier}) as found:
        model(images)
    return found


def condition(model: Any, seed: int) -> None:
    measure_batch_norms(model, 96, seed, {})


TOWERS = [Tower(lambda module: isinstance(module, DenseNet), stages, condition)]
