"""FLYP's training loop in PyTorch: open_clip's model in train mode, torch's AdamW, wise-ft's cosine schedule.

Written after locuslab/FLYP 215d5bb (`src/models/flyp_loss.py`, `utils.py`); every choice that a test gets
wrong on purpose is an argument.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F


class Trace(NamedTuple):
    """Losses [steps]; the first step's gradients and the last weights, with BatchNorm's running mean and
    variance, by open_clip's keys."""

    losses: np.ndarray
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class Loop:
    """As the reference has it, or with a mistake in it.

    Attributes:
        steps: of the schedule; a run may have fewer batches.
        decay: "all" parameters, or "matrices" as in open_clip's own training.
        one_way: images look for their texts, but not the other way round.
        normalize: features have unit norm.
        frozen: BatchNorm stays in evaluation mode.
    """

    learning_rate: float
    weight_decay: float
    warmup: int
    steps: int
    b2: float = 0.999
    eps: float = 1e-8
    decay: str = "all"
    one_way: bool = False
    normalize: bool = True
    clip_norm: float | None = None
    frozen: bool = False

    def run(self, model: Any, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Trace:
        """Train a copy of the model on batches (images float32 [B,3,S,S], ids [B,L]), a step each."""
        model = copy.deepcopy(model).train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train(not self.frozen)
        optimizer = torch.optim.AdamW(
            self._groups(model), lr=self.learning_rate, betas=(0.9, self.b2), eps=self.eps
        )
        losses, gradients = [], {}
        for step, (images, ids) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = self._rate(step)
            optimizer.zero_grad()
            loss = self.loss(model, images, ids)
            loss.backward()
            if step == 0:
                gradients = {name: _host(p.grad) for name, p in model.named_parameters()}
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
            optimizer.step()
            losses.append(loss.item())
        buffers = {name: b for name, b in model.named_buffers() if "running_" in name}
        weights = dict(model.named_parameters()) | buffers
        return Trace(np.array(losses), gradients, {name: _host(p) for name, p in weights.items()})

    def loss(self, model: Any, images: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        image = model.encode_image(torch.from_numpy(images))
        text = model.encode_text(torch.from_numpy(ids).long())
        if self.normalize:
            image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        pairs = torch.arange(len(logits))
        if self.one_way:
            return F.cross_entropy(logits, pairs)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    def _groups(self, model: Any) -> list[dict[str, Any]]:
        named = list(model.named_parameters())
        exempt = [] if self.decay == "all" else [p for n, p in named if p.ndim < 2 or "ln" in n]
        decayed = [p for _, p in named if all(p is not other for other in exempt)]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}]
        return groups + ([{"params": exempt, "weight_decay": 0.0}] if exempt else [])

    def _rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / (self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * share)) * self.learning_rate


def _host(tensor: torch.Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().numpy().copy()
