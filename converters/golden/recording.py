"""Record what goes through a torch model; what a tower file provides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class RecordedTower:
    """Functions for the torch towers of one class.

    Attributes:
        takes: whether a module is such a tower. For open_clip's `CLIP` the whole model is the text tower.
        stages: (tower, [B, 3, H, W] or ids [B, L]) -> stages in forward order, channels last, under our
            names; the last is the features.
        condition: (tower, seed) -> None, sets in place what layer classes do not determine.
    """

    takes: Callable[[nn.Module], bool]
    stages: Callable[[Any, Tensor], dict[str, Tensor]]
    condition: Callable[[Any, int], None]


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


@contextmanager
def recording(
    modules: dict[str, nn.Module],
    inputs_of: dict[str, nn.Module] | None = None,
    *,
    turn: Callable[[Tensor], Tensor] = channels_last,
) -> Iterator[dict[str, Tensor]]:
    """Yields the outputs of `modules` and the inputs of `inputs_of`, in forward order.

    `turn` makes maps channels last; `torch.clone` for a tower whose maps already are.
    """
    stages: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        # A copy, because the reference's activations work in place.
        return lambda _module, args, output=None: stages.__setitem__(
            name, turn(args[0] if output is None else output).clone()
        )

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(keep(name)).remove)
        for name, module in (inputs_of or {}).items():
            hooks.callback(module.register_forward_pre_hook(keep(name)).remove)
        yield stages


def numbered(prefix: str, blocks: Any) -> dict[str, nn.Module]:
    return {f"{prefix}.{i}": block for i, block in enumerate(blocks)}
