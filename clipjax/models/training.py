"""The mode of a forward pass, and BatchNorm's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
from jax import Array

Attends = Literal["tokens", "reference_batch"]
PRODUCT = "product"  # names the convolutions that a checkpointed block keeps, beside its matrix products


@dataclass(frozen=True)
class Training:
    """Options of a training step's forward pass.

    Attributes:
        batch_norm: "batch" normalises by the global batch's statistics and updates the running ones
            (PyTorch's train mode); "per_device" by each device's own (torch.nn.DataParallel; the first's
            update the running ones); "frozen" by the stored ones.
        devices: parts of the batch, for "per_device".
        remat: recompute activations in the backward pass.
    """

    batch_norm: Literal["batch", "per_device", "frozen"] = "frozen"
    devices: int = 1
    remat: bool = False


@dataclass(frozen=True)
class Mode:
    """How a pass runs, bound to a tower when it is made (`modules.binding`). Nothing has a default.

    training: None: keeps no activations.
    platform: where it runs; None: the compiler chooses, of some forms (`modules.forms`).
    attention: what a token attends to: all tokens of its image ("tokens"), or the same token of all images of
        the batch ("reference_batch"; see `Network.encode_dense`).
    devices: over which the compiler splits the batch; 1 in `shard_map`.
    chunk_bytes: the most of a product's result for the examples of a chunk (`clipjax.models.chunks`).
    float32_products: see `precision.float32_products`; of no effect on a GPU and a TPU.
    """

    training: Training | None
    platform: str | None
    attention: Attends
    devices: int
    chunk_bytes: float
    float32_products: bool

    @property
    def batch_norm(self) -> Literal["batch", "per_device", "frozen"]:
        return "frozen" if self.training is None else self.training.batch_norm

    @property
    def remat(self) -> bool:
        return self.training is not None and self.training.remat


class Statistic(nnx.Param):
    """A running statistic of BatchNorm, [dim]: forward passes in training move it, not gradients."""


class Precise(nnx.Param):
    """A param that stays float32 at every precision; its layer casts what it computes from it."""


def statistics(module: Any) -> Any:
    """A module's `Statistic`s as arrays, nested like its params."""
    return nnx.to_pure_dict(nnx.state(module, Statistic))


def running(before: Array, of_batch: Array) -> Array:
    """The running statistics of torch.nn.BatchNorm2d with its default momentum 0.1."""
    return 0.9 * before + 0.1 * of_batch
