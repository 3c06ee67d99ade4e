"""timm 1.0 `regnet.RegNet`."""

from __future__ import annotations

from typing import Any

from timm.models.regnet import RegNet
from torch import Tensor

from converters.golden.recording import RecordedTower, recording
from converters.golden.weights import BRANCH_GAIN, SE_GAIN, measure_batch_norms, scaled_normal

NARROW = {"w0": 24, "wa": 36.44, "wm": 2.49, "group_size": 8, "depth": 13}


def timm_sizes(record: dict[str, Any]) -> dict[str, Any]:
    return NARROW if sum(record["depths"]) == NARROW["depth"] else {}


def blocks_of(model: Any) -> dict[str, Any]:
    return {
        f"s{s}.{j}": block for s in (1, 2, 3, 4) for j, block in enumerate(getattr(model, f"s{s}").children())
    }


def stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    with recording({"stem": model.stem, **blocks_of(model), "pooled": model.head.global_pool}) as tensors:
        model(images)
    return tensors


def condition(model: Any, seed: int) -> None:
    gains = {name: BRANCH_GAIN for name, _ in model.named_modules() if name.endswith("conv3.bn")}
    for name, module in model.named_modules():
        if name.endswith((".se.fc1", ".se.fc2")):
            scaled_normal(module.weight, SE_GAIN)
    measure_batch_norms(model, 96, seed, gains)


TOWERS = [RecordedTower(lambda module: isinstance(module, RegNet), stages, condition)]
