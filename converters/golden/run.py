"""A reference model and its inputs -> every stage and the results, as float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from converters.golden.towers import tower_of


def towers_of(model: Any) -> list[nn.Module]:
    """[image tower, text tower] of an open_clip model; [itself] of a timm one."""
    if not hasattr(model, "visual"):
        return [model]
    return [model.visual, model.text if hasattr(model, "text") else model]


@torch.no_grad()
def run(model: Any, images: np.ndarray, ids: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every stage and the results.

    A dual encoder gives `image_embedding` and `text_embedding` (unit norm), `logit_scale` (its logarithm, as
    stored), `logit_bias` where it has one and `logits` [images, texts]; a classifier (ids None) gives
    `features` and, where it has a head, `logits`.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    visual, *texts = towers_of(model)
    named = {"vision": tower_of(visual).stages(visual, pixels)}
    if ids is None:
        results = classifier_results(model, pixels, named["vision"])
    else:
        named["text"] = tower_of(texts[0]).stages(texts[0], torch.from_numpy(ids).long())
        results = clip_results(model, *(features_of(stages) for stages in named.values()))
    stages = {f"{tower}.{name}": x for tower, found in named.items() for name, x in found.items()}
    return {name: x.contiguous().numpy() for name, x in (stages | results).items()}


def features_of(stages: dict[str, Tensor]) -> Tensor:
    return stages[list(stages)[-1]]


def classifier_results(model: Any, pixels: Tensor, stages: dict[str, Tensor]) -> dict[str, Tensor]:
    results = {"features": features_of(stages)}
    return results | ({"logits": model(pixels)} if model.num_classes else {})


def clip_results(model: Any, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = model.logit_scale.exp() * image @ text.T
    results = {"image_embedding": image, "text_embedding": text, "logit_scale": model.logit_scale}
    if model.logit_bias is not None:
        logits = logits + model.logit_bias
        results["logit_bias"] = model.logit_bias
    return {**results, "logits": logits}
