"""open_clip 3.3 `modified_resnet.ModifiedResNet`."""

from __future__ import annotations

from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from converters.golden.recording import RecordedTower, numbered, recording
from converters.golden.weights import ATTENTION_GAIN, BRANCH_GAIN, measure_batch_norms, scaled_normal


def open_clip_sizes(record: dict[str, Any]) -> dict[str, Any]:
    head_width = record["width"] * 32 // record["heads"]
    return {name: record[name] for name in ("image_size", "width", "layers")} | {"head_width": head_width}


def stages(visual: Any, images: Tensor) -> dict[str, Tensor]:
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    blocks = {
        name: block for layer in layers for name, block in numbered(layer, getattr(visual, layer)).items()
    }
    with recording({"stem": visual.avgpool, **blocks}) as tensors:
        features = visual(images)
    return {**tensors, "projected": features}


def condition(visual: Any, seed: int) -> None:
    """Fits the attention pool to its input."""
    pool_inputs: list[Tensor] = []
    hook = visual.attnpool.register_forward_pre_hook(lambda _module, args: pool_inputs.append(args[0]))
    gains = {name: BRANCH_GAIN for name in dict(visual.named_modules()) if name.endswith("bn3")}
    gains.pop("bn3")  # the stem's
    measure_batch_norms(visual, visual.image_size, seed, gains)
    hook.remove()
    size = pool_inputs[0].std().item()
    pool = visual.attnpool
    pool.positional_embedding.normal_(std=size)
    for linear, gain in ((pool.q_proj, ATTENTION_GAIN), (pool.k_proj, ATTENTION_GAIN), (pool.v_proj, 1.0)):
        scaled_normal(linear.weight, gain / size)


TOWERS = [RecordedTower(lambda module: isinstance(module, ModifiedResNet), stages, condition)]
