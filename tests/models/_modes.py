"""Modes, and layers bound to one."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

from clipjax.models.chunks import LARGEST_BYTES
from clipjax.models.modules.binding import bind
from clipjax.models.training import Mode, Training

M = TypeVar("M", bound=nnx.Module)


def mode_of(
    training: Training | None = None,
    platform: str | None = None,
    devices: int = 1,
    most: float = LARGEST_BYTES,
    float32_products: bool = False,
) -> Mode:
    return Mode(
        training=training,
        platform=platform,
        attention="tokens",
        devices=devices,
        chunk_bytes=most,
        float32_products=float32_products,
    )


INFERENCE = mode_of()


def bound(module: M, mode: Mode = INFERENCE) -> M:
    """A copy of the module, bound to a mode."""
    return bind(nnx.clone(module), mode)
