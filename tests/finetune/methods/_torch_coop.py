"""CoOp's training loop in PyTorch: prompts of 77 tokens in open_clip's text tower, SGD, Dassl's schedule.

Written after KaiyangZhou/CoOp ff61507 (`trainers/coop.py`: PromptLearner, TextEncoder, CustomCLIP) and Dassl
(`optim/lr_scheduler.py`: ConstantWarmupScheduler before torch's own CosineAnnealingLR, both stepped once an
epoch). Every choice that a test gets wrong on purpose is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

Batch = tuple[np.ndarray, np.ndarray]  # image features float32 [B, E], labels [B]


class Trace(NamedTuple):
    """Losses [steps]; the context's gradient of the first step, and the last context."""

    losses: np.ndarray
    gradient: np.ndarray
    context: np.ndarray


class ConstantWarmup(LRScheduler):
    """Dassl's: `rate` for so many epochs, then the successor's rates from its first one on."""

    def __init__(self, optimizer: Any, successor: LRScheduler, epochs: int, rate: float) -> None:
        self.successor, self.epochs, self.rate = successor, epochs, rate
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch >= self.epochs:
            self.successor.step()
        else:
            super().step()

    def get_lr(self) -> list[Any]:
        waiting = self.last_epoch < self.epochs
        return [self.rate] * len(self.base_lrs) if waiting else self.successor.get_last_lr()


@dataclass(frozen=True)
class Loop:
    """As the reference has it, or with a mistake in it.

    Attributes:
        names: of the classes.
        per_epoch, epochs: steps of an epoch, and the cosine's length.
        warmup: epochs at `warmup_rate`.
        decoupled: the decay goes past the momentum. cosine: changes every "epoch" or every "step".
    """

    names: tuple[str, ...]
    learning_rate: float
    weight_decay: float
    per_epoch: int
    epochs: int
    momentum: float = 0.9
    warmup: int = 1
    warmup_rate: float = 1e-5
    position: str = "end"
    full_stop: str = "."
    logit_scale: bool = True
    decoupled: bool = False
    cosine: str = "epoch"

    def run(self, model: Any, context: np.ndarray, batches: Sequence[Batch]) -> Trace:
        """Train a context [M, D] or [K, M, D] on batches, a step each."""
        model = model.eval().requires_grad_(False)
        vectors = torch.nn.Parameter(torch.tensor(context))
        decay = 0.0 if self.decoupled else self.weight_decay
        optimizer = torch.optim.SGD(
            [vectors], lr=self.learning_rate, momentum=self.momentum, weight_decay=decay
        )
        unit = self.per_epoch if self.cosine == "step" else 1
        schedule: LRScheduler = CosineAnnealingLR(optimizer, self.epochs * unit)
        if self.warmup:
            schedule = ConstantWarmup(optimizer, schedule, self.warmup * unit, self.warmup_rate)
        losses, first = [], np.zeros(0)
        for step, (features, labels) in enumerate(batches, 1):
            loss = self.loss(model, vectors, features, labels)
            optimizer.zero_grad()
            loss.backward()
            first = vectors.grad.numpy().copy() if step == 1 and vectors.grad is not None else first
            if self.decoupled:
                with torch.no_grad():
                    vectors.mul_(1 - optimizer.param_groups[0]["lr"] * self.weight_decay)
            optimizer.step()
            losses.append(loss.item())
            if step % (1 if self.cosine == "step" else self.per_epoch) == 0:
                schedule.step()
        return Trace(np.array(losses), first, vectors.detach().numpy())

    def loss(self, model: Any, vectors: Any, features: np.ndarray, labels: np.ndarray) -> Any:
        images = F.normalize(torch.from_numpy(features), dim=-1)
        texts = F.normalize(self.class_features(model, vectors), dim=-1)
        scale = model.logit_scale.exp() if self.logit_scale else 1.0
        return F.cross_entropy(scale * images @ texts.T, torch.from_numpy(labels).long())

    def class_features(self, model: Any, vectors: Any) -> Any:
        """[K, E], not of unit norm."""
        size = vectors.shape[-2]
        names = [name.replace("_", " ") for name in self.names]
        ids = open_clip.tokenize([" ".join(["X"] * size) + f" {name}{self.full_stop}" for name in names])
        words = model.token_embedding(ids)
        prompts = []
        for k, name in enumerate(names):
            own = vectors if vectors.dim() == 2 else vectors[k]
            length = int(open_clip.tokenize(name).argmax()) - 1
            rest = words[k, 1 + size :]
            before = {"end": size, "middle": size // 2, "front": 0}[self.position]
            parts = [words[k, :1], own[:before], rest[:length], own[before:], rest[length:]]
            prompts.append(torch.cat(parts))
        x = torch.stack(prompts) + model.positional_embedding
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        return x[torch.arange(len(names)), ids.argmax(dim=-1)] @ model.text_projection
