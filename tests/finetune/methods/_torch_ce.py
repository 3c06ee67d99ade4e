"""wise-ft's end-to-end fine-tuning in PyTorch: open_clip's image tower, a linear head, torch's AdamW.

What `src/models/finetune.py` and `modeling.py` of wise-ft compute, written anew with the same calls of torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from clipjax.data.pixels.normalize import normalize_host
from clipjax.finetune.training.optimizer import Optimizer


class ImageClassifier(nn.Module):
    """A tower and a linear head on features of unit norm."""

    def __init__(self, visual: nn.Module, kernel: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(*kernel.shape)
        self.head.weight = nn.Parameter(torch.tensor(kernel.T))
        self.head.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.visual(images)
        return self.head(features / features.norm(dim=-1, keepdim=True))


@dataclass
class Trace:
    """What a run went through: the losses, the gradients of step 1 in the place of weights, the end."""

    losses: list[float]
    first: ImageClassifier
    last: ImageClassifier


def cosine_lr(step: int, base: float, warmup: int, steps: int) -> float:
    """wise-ft's schedule (`src/models/utils.py`)."""
    if step < warmup:
        return base * (step + 1) / warmup
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) * base


def images_of(batch: dict[str, np.ndarray], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    return torch.from_numpy(normalize_host(batch["pixels"], mean, std)).permute(0, 3, 1, 2).contiguous()


def train(
    model: ImageClassifier,
    batches: Sequence[dict[str, np.ndarray]],
    optimizer: Optimizer,
    warmup: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    train_mode: bool = True,
    momentum: float = 0.1,
) -> Trace:
    """One step per batch, from a copy of `model`.

    Args:
        train_mode: wise-ft's; False leaves BatchNorm's statistics alone.
        momentum: of these statistics, PyTorch's own.
    """
    model = copy.deepcopy(model).train(train_mode)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    params = [p for p in model.parameters() if p.requires_grad]
    vectors = [p for p in params if p.ndim < 2] if optimizer.decay == "matrices" else []
    matrices = [p for p in params if all(p is not vector for vector in vectors)]
    adamw = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=optimizer.learning_rate,
        betas=(optimizer.b1, optimizer.b2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    losses, first = [], model
    for step, batch in enumerate(batches):
        for group in adamw.param_groups:
            group["lr"] = cosine_lr(step, optimizer.learning_rate, warmup, len(batches))
        adamw.zero_grad()
        logits = model(images_of(batch, mean, std))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(batch["label"]).long())
        loss.backward()
        if step == 0:
            first = _gradients(model)
        if optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(params, optimizer.clip_norm)
        adamw.step()
        losses.append(loss.item())
    return Trace(losses, first, model.eval())


def _gradients(model: ImageClassifier) -> ImageClassifier:
    """A copy whose weights are the gradients."""
    gradients: Any = copy.deepcopy(model)
    with torch.no_grad():
        for copied, p in zip(gradients.parameters(), model.parameters(), strict=True):
            copied.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    return gradients
