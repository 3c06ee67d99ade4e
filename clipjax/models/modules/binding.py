"""How a pass runs, bound to a tower's layers when the tower is made."""

from __future__ import annotations

from typing import TypeVar

from flax import nnx

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


def bind(module: M, mode: Mode) -> M:
    """The module itself, each `Layer` in it bound to the mode."""
    for _, each in nnx.iter_modules(module):
        if isinstance(each, Layer):
            each._mode = mode
    return module
