"""How a forward pass behaves in training, and what it leaves behind.

The layers ask `current()`, so that no family passes it on. It is read while a function is traced: what is
compiled holds it, as with `jax.default_matmul_precision`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
from jax import Array

PRODUCT = "product"  # the name of convolutions that a checkpointed block keeps, as it keeps matrix products


@dataclass(frozen=True)
class Training:
    """What a training step may ask of a forward pass; as it stands, that of inference.

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


INFERENCE = Training()  # itself, not its equal: a training step may ask for no more than this
_CURRENT = ContextVar("training", default=INFERENCE)


def current() -> Training:
    """That of the forward pass being traced."""
    return _CURRENT.get()


@contextlib.contextmanager
def active(training: Training) -> Iterator[None]:
    """Forward passes traced inside are of this kind."""
    token = _CURRENT.set(training)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Statistic(nnx.Param):
    """A running statistic of BatchNorm, [dim]: a forward pass in training moves it, no gradient does."""


def statistics(module: Any) -> Any:
    """The values of a module's `Statistic`s, in a nested dict like that of its params."""
    return nnx.to_pure_dict(nnx.state(module, Statistic))


def running(before: Array, of_batch: Array) -> Array:
    """A running statistic after a batch, as torch.nn.BatchNorm2d: the sources leave its momentum at 0.1."""
    return 0.9 * before + 0.1 * of_batch
