"""Stages of convolutional nets: blocks with one output shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.modules import sequence


class Stage(nnx.Module):
    """A first block that changes the shape and `depth - 1` equal ones, scanned.

    first: first(rngs=rngs) makes the first block.
    rest: rest(rngs=rngs) makes each other block.
    """

    def __init__(
        self, first: Callable[..., nnx.Module], rest: Callable[..., nnx.Module], depth: int, *, rngs: nnx.Rngs
    ):
        self.first = first(rngs=rngs)
        self.rest = sequence.stack(lambda rngs: rest(rngs=rngs), depth - 1, rngs) if depth > 1 else None

    def __call__(self, x: Array, capture: bool) -> tuple[Array, Sequence[Array] | None]:
        first = sequence.apply(self.first, x)
        if self.rest is None:
            return first, [first]
        x, outputs = sequence.scan(self.rest, first, capture=capture)
        return x, None if outputs is None else [first, *outputs]


def run_stages(stages: Mapping[str, Any], x: Array, capture: bool) -> tuple[Array, dict[str, Array]]:
    """The last output and, if `capture`, those of every block as "NAME.0", "NAME.1", ..."""
    captured: dict[str, Array] = {}
    for name, stage in stages.items():
        x, outputs = stage(x, capture)
        captured |= {f"{name}.{i}": output for i, output in enumerate(() if outputs is None else outputs)}
    return x, captured


def dense(
    tower: Any, images: Float[Array, "B H W 3"], stages: Sequence[int]
) -> list[Float[Array, "B _ _ _"]]:
    """The maps of some stages of a tower with a stem and stages. Stage 0: [B, S / 4, S / 4, its width]."""
    return maps_at(tower.stages, tower.stem(images), at=stages)


def maps_at(stages: Mapping[str, Any], x: Array, *, at: Sequence[int]) -> list[Array]:
    """The outputs of the stages `at` (numbers, ascending); those after the last are not run."""
    maps = []
    for stage in list(stages.values())[: at[-1] + 1]:
        x, _ = stage(x, capture=False)
        maps.append(x)
    return [maps[i] for i in at]
