"""Conditioned reference weights by layer: PyTorch models in which every tensor, and every eps, matters.

As initialised, whole tensors do not count: RN50's residual branches are multiplied by zero, attention is
uniform, biases are zero.

Norms read small inputs, so that every eps counts: a LayerNorm a residual stream of scale STREAM, a BatchNorm
a convolution of gain CONV_GAIN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STREAM = 0.015  # a variance of 20 to 100 times eps = 1e-5
CONV_GAIN = 0.05
BRANCH_GAIN = 0.3  # of a ResNet's residual branches: at 1, RN50 amplifies its own rounding errors 200 times
SE_GAIN = 4.0  # of a squeeze-excitation: its gates choose, instead of all being about a half
ATTENTION_GAIN = 1.3  # attention logits of about this squared: neither uniform nor one-hot


def set_by_class(module: nn.Module) -> None:
    if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
        module.weight.uniform_(0.6, 1.4)
        module.bias.uniform_(-0.2, 0.2)
    elif isinstance(module, nn.Linear):
        scaled_normal(module.weight, 1.0)
        set_bias(module)
    elif isinstance(module, nn.Conv2d):
        scaled_normal(module.weight, CONV_GAIN)
        set_bias(module)
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        query_key, value = module.in_proj_weight.split([2 * module.embed_dim, module.embed_dim])
        scaled_normal(query_key, ATTENTION_GAIN)
        scaled_normal(value, 1.0)
        module.in_proj_bias.uniform_(-0.2, 0.2)


def set_bias(module: nn.Linear | nn.Conv2d) -> None:
    if module.bias is not None:
        module.bias.uniform_(-0.2, 0.2)


def scaled_normal(weight: Tensor, gain: float) -> None:
    """[out, in, ...] such that inputs of unit size give outputs of size `gain`."""
    weight.normal_(std=gain / weight[0].numel() ** 0.5)


def condition_residual(writers: Iterable[tuple[nn.Linear, ...]]) -> None:
    """Scale what a transformer's blocks write to the residual stream."""
    for linears in writers:
        for linear in linears:
            linear.weight.mul_(STREAM)
            linear.bias.mul_(STREAM)


def measure_batch_norms(model: Any, image_size: int, seed: int, gains: Mapping[str, float]) -> None:
    """Measure batch norms in a train-mode pass, after scaling the named norms by `gains`."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    momenta = [norm.momentum for norm in norms.values()]
    for name, norm in norms.items():
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.weight.mul_(gains.get(name, 1.0))
        norm.bias.mul_(gains.get(name, 1.0))
    model.train()
    model(torch.from_numpy(images(image_size, 8, seed)).permute(0, 3, 1, 2))
    model.eval()
    for norm, momentum in zip(norms.values(), momenta):  # restored for training
        norm.momentum = momentum


def images(size: int, batch: int, seed: int) -> np.ndarray:
    """[batch, size, size, 3] float32: noise over a coarse pattern, so that images differ clearly."""
    rng = np.random.default_rng([seed, 1])
    coarse = rng.normal(size=(batch, 4, 4, 3))
    cells = np.arange(size) * 4 // size
    fine = rng.normal(size=(batch, size, size, 3))
    return ((fine + coarse[:, cells][:, :, cells]) / 2**0.5).astype(np.float32)
