"""How a forward pass runs, in inference and in training, and what training leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
from jax import Array

PRODUCT = "product"  # the name of convolutions that a checkpointed block keeps, as it keeps matrix products


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


@dataclass(frozen=True)
class Mode:
    """How one forward pass runs: the argument `mode` of every layer whose result or program depends on it.

    Attributes:
        training: None is inference, where a block's activations are nobody's to keep.
        platform: where it will run; see `clipjax.devices.platforms.by_platform`.
    """

    training: Training | None = None
    platform: str | None = None

    @property
    def batch_norm(self) -> Literal["batch", "per_device", "frozen"]:
        return "frozen" if self.training is None else self.training.batch_norm

    @property
    def remat(self) -> bool:
        return self.training is not None and self.training.remat


INFERENCE = Mode()


class Statistic(nnx.Param):
    """A running statistic of BatchNorm, [dim]: a forward pass in training moves it, no gradient does."""


def statistics(module: Any) -> Any:
    """The values of a module's `Statistic`s, in a nested dict like that of its params."""
    return nnx.to_pure_dict(nnx.state(module, Statistic))


def running(before: Array, of_batch: Array) -> Array:
    """A running statistic after a batch, as torch.nn.BatchNorm2d: the sources leave its momentum at 0.1."""
    return 0.9 * before + 0.1 * of_batch
