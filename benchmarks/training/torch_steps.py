"""Training steps of open_clip's or timm's models with torch's AdamW: the other side of `clipjax_steps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.training.training_data import CLASSES, DECAY, RATE

Step = Callable[[], torch.Tensor]


def torch_steps(
    model: Any,
    method: str,
    arrays: dict[str, np.ndarray],
    device: str = "cpu",
    *,
    bfloat16: bool = False,
    compiled: bool = False,
) -> Step:
    """A step, which returns its loss.

    Args:
        model: on the device.
        method: "CE" or "FLYP".
        bfloat16: by autocast, the params stay float32.
        compiled: forward and backward by torch.compile.
    """
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous().to(device)
    labels, tokens = (torch.from_numpy(arrays[name]).long().to(device) for name in ("label", "tokens"))
    model.train()
    cross_entropy = torch.nn.functional.cross_entropy
    dual = hasattr(model, "visual")
    head = torch.nn.Linear(len(arrays["head"]), CLASSES).to(device)
    if method == "CE" and dual:
        head.load_state_dict({"weight": torch.from_numpy(arrays["head"].T), "bias": torch.zeros(CLASSES)})
        trained = [*model.visual.parameters(), *head.parameters()]
    else:
        trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY, fused=device != "cpu")

    def loss() -> torch.Tensor:
        if not dual:
            return cross_entropy(model(images), labels)
        features = model.encode_image(images, normalize=True)
        if method == "CE":
            return cross_entropy(head(features), labels)
        texts = model.encode_text(tokens, normalize=True)
        logits = model.logit_scale.exp() * features @ texts.T
        pairs = torch.arange(len(logits), device=device)
        return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2

    of_batch: Any = torch.compile(loss) if compiled else loss

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            value = of_batch()
        value.backward()
        optimizer.step()
        return value.detach()

    return step
