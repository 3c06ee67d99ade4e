"""How a forward pass behaves in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Training:
    """What a training step may ask of a forward pass.

    Attributes:
        batch_norm: "batch" normalises by the statistics of the global batch and updates the running ones, as
            PyTorch's train mode; "per_device" by those of each device's part (torch.nn.DataParallel; the
            first part's update the running ones); "frozen" by the stored ones.
        devices: parts of the batch, for "per_device".
        remat: activations of a block are computed again in the backward pass and not kept.
    """

    batch_norm: Literal["batch", "per_device", "frozen"] = "frozen"
    devices: int = 1
    remat: bool = False
