"""Params that lie cut over the devices of a mesh axis, and are put together where a layer reads them.

Inside `jax.shard_map` a device sees its own part of what is cut. A block of a stack is put together as the
scan comes to it, so that a device holds its part of all blocks and one block whole; the layers themselves
know nothing of it, and compute what they compute of params that were never cut.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cut:
    """One device's part of a param.

    Attributes:
        part: what this device holds.
        axis: where it is cut, counted from the end: a scan takes the first axis away.
        devices: how many parts there are.
        name: of the mesh axis.
    """

    part: Array
    axis: int = dataclasses.field(metadata={"static": True})
    devices: int = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole param."""
        sizes = list(self.part.shape)
        sizes[self.axis] *= self.devices
        return tuple(sizes)

    def whole(self) -> Array:
        """The param, on every device."""
        return jax.lax.all_gather(self.part, self.name, axis=self.part.ndim + self.axis, tiled=True)


def whole(tree: Any) -> Any:
    """A tree (of arrays, or a module) with every param in it whole."""
    return jax.tree.map(lambda leaf: leaf.whole() if is_cut(leaf) else leaf, tree, is_leaf=is_cut)


def is_cut(leaf: object) -> bool:
    return isinstance(leaf, Cut)
