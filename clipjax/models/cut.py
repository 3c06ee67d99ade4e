"""Params cut over a mesh axis in `jax.shard_map`, and gathered where a layer reads them.

The scan gathers one block at a time: a device holds its part of all blocks and one whole block.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from clipjax.devices.sharding import Rules
from clipjax.models.unstacked import BLOCKS

STACKS = (BLOCKS, "rest")  # whose leaves have the layers on axis 0, over which `sequence.scan` runs
# Cuts every large leaf over the devices; a stacked one along another axis than its layers.
FSDP: Rules = (
    (r"(^|/)(scale|bias|logit_scale|logit_bias)$", PartitionSpec()),
    (rf"(^|/)({'|'.join(STACKS)})/", "largest but first"),
    (r".", "largest"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cut:
    """One device's part of a param: one of `devices`, along the mesh axis `name`.

    axis: the cut axis, counted from the end because a scan removes the first.
    """

    part: Array
    axis: int = dataclasses.field(metadata={"static": True})
    devices: int = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole param's."""
        sizes = list(self.part.shape)
        sizes[self.axis] *= self.devices
        return tuple(sizes)

    def whole(self) -> Array:
        return jax.lax.all_gather(self.part, self.name, axis=self.part.ndim + self.axis, tiled=True)


def whole(tree: Any) -> Any:
    """The same tree (or module) with every `Cut` gathered."""
    return jax.tree.map(lambda leaf: leaf.whole() if is_cut(leaf) else leaf, tree, is_leaf=is_cut)


def is_cut(leaf: object) -> bool:
    return isinstance(leaf, Cut)


def any_cut(tree: Any) -> bool:
    """Whether a param of the tree (or module) is cut."""
    return any(map(is_cut, jax.tree.leaves(tree, is_leaf=is_cut)))
