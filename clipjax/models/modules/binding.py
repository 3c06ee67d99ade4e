"""How a pass runs, bound to a tower's layers when the tower is made."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

from clipjax.models.chunks import LARGEST_BYTES
from clipjax.models.training import Mode

M = TypeVar("M", bound=nnx.Module)


class Layer(nnx.Module):
    """A module that runs in a mode: a layer with several forms, or a block of such layers."""

    _mode: Mode | None = None

    @property
    def mode(self) -> Mode:
        """Raises TypeError before `bind`: no layer takes a form by default."""
        if self._mode is None:
            raise TypeError(
                f"{type(self).__name__} is not bound to a mode: call clipjax.models.modules.binding.bind on "
                "the tower before it runs"
            )
        return self._mode

    def prepare(self) -> None:
        """Computes, of the params, what a pass of many examples computes once: before its loops."""


def inference_mode(platform: str | None) -> Mode:
    """The mode of layers outside a tower, such as a decoder's: no training, one device."""
    return Mode(
        training=None,
        platform=platform,
        attention="tokens",
        devices=1,
        chunk_bytes=LARGEST_BYTES,
        float32_products=False,
    )


def mode_of_block(block: nnx.Module) -> Mode:
    """The mode of a block that runs in sequence. Raises TypeError if the block is not a `Layer`."""
    if not isinstance(block, Layer):
        raise TypeError(
            f"{type(block).__name__} runs as a block in sequence, but has no mode: make it a subclass of "
            "clipjax.models.modules.binding.Layer"
        )
    return block.mode


def bind(module: M, mode: Mode) -> M:
    """The module itself, each `Layer` in it bound to the mode."""
    for _, each in nnx.iter_modules(module):
        if isinstance(each, Layer):
            each._mode = mode
    return module


def prepare(tower: nnx.Module) -> None:
    """`Layer.prepare` of each layer of a bound tower."""
    for _, each in list(nnx.iter_modules(tower)):
        if isinstance(each, Layer):
            each.prepare()
