"""A reference model and its inputs -> every stage and the results, as float32 arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipjax.storage.writing import whole_file
from converters.golden.llava import Llava, llava_stages
from converters.golden.tower import tower_of
from converters.golden.towers import hf


def towers_of(model: Any) -> list[Any]:
    """[image tower, text tower] of an open_clip or transformers model; [itself] of a timm one.

    For a vision-language model: the towers of the model that its image tower is from.
    """
    if isinstance(model, Llava):
        return towers_of(model.vision)
    if hasattr(model, "vision_model"):
        return [hf.ImageTower(model), hf.TextTower(model)]
    if not hasattr(model, "visual"):
        return [model]
    return [model.visual, model.text if hasattr(model, "text") else model]


@torch.no_grad()
def run(model: Any, images: np.ndarray, ids: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every stage and the results.

    A dual encoder gives `image_embedding`, `text_embedding` (unit norm), `logit_scale` (its logarithm),
    `logit_bias` if any, and `logits` [images, texts]; a classifier `features` and, with a head, `logits`; a
    vision-language model `image_tokens`, the decoder's stages and the `logits` of the next id.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if isinstance(model, Llava):
        assert ids is not None
        of_llava = llava_stages(model, pixels, torch.from_numpy(ids).long())
        return {name: x.contiguous().numpy() for name, x in of_llava.items()}
    visual, *texts = towers_of(model)
    named = {"vision": tower_of(visual).stages(visual, pixels)}
    if ids is None:
        results = classifier_results(model, pixels, named["vision"])
    else:
        named["text"] = tower_of(texts[0]).stages(texts[0], torch.from_numpy(ids).long())
        results = clip_results(model, *(features_of(stages) for stages in named.values()))
    stages = {f"{tower}.{name}": x for tower, tensors in named.items() for name, x in tensors.items()}
    return {name: x.contiguous().numpy() for name, x in (stages | results).items()}


def features_of(stages: dict[str, Tensor]) -> Tensor:
    return stages[list(stages)[-1]]


def classifier_results(model: Any, pixels: Tensor, stages: dict[str, Tensor]) -> dict[str, Tensor]:
    results = {"features": features_of(stages)}
    return results | ({"logits": model(pixels)} if model.num_classes else {})


def clip_results(model: Any, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    scale, bias = model.logit_scale.reshape(()), getattr(model, "logit_bias", None)
    logits = scale.exp() * image @ text.T
    results = {"image_embedding": image, "text_embedding": text, "logit_scale": scale}
    if bias is not None:
        results["logit_bias"] = bias.reshape(())
        logits = logits + bias
    return {**results, "logits": logits}


def write_golden(
    out: Path, arrays: dict[str, np.ndarray], inputs: dict[str, np.ndarray], facts: dict[str, Any]
) -> None:
    """One .npz, which appears only when complete."""
    meta = {"format": 1, "stages": list(arrays), "torch": torch.__version__, **facts}
    with whole_file(out) as draft, draft.open("wb") as file:
        everything: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **inputs, **arrays}
        np.savez_compressed(file, **everything)
