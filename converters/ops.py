"""The permitted moves of a tensor between a foreign checkpoint and a leaf of our params.

Torch stacks attention's q, k and v projections, so an op takes a block of rows; then it permutes axes. Both
are exactly invertible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Op:
    """leaf = transpose(source rows [part * n, (part + 1) * n), axes), n = rows / parts.

    Attributes:
        axes: the source's axis for each of the leaf's; None: no permutation.
        flat: a vector of one element may fill a scalar leaf.
        lead: leading axes of length 1 that the leaf lacks.
        trail: trailing axes of length 1 that the leaf lacks.
    """

    axes: tuple[int, ...] | None = None
    part: int = 0
    parts: int = 1
    flat: bool = False
    lead: int = 0
    trail: int = 0

    @property
    def identity(self) -> bool:
        return self.axes is None and not (self.flat or self.lead or self.trail)

    @property
    def rank(self) -> int | None:
        """The source's number of axes, if the op fixes it."""
        return None if self.axes is None else self.lead + len(self.axes) + self.trail

    def source_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the source tensor that this op turns into a leaf; None if there is none.

        OPS["q_linear"].source_shape((4, 8)) == (24, 4): q, k and v of [8, 4], stacked.
        """
        if self.axes is not None:
            if len(leaf) != len(self.axes):
                return None
            leaf = tuple(leaf[self.axes.index(axis)] for axis in range(len(leaf)))
        if self.parts > 1:
            return (self.parts * leaf[0], *leaf[1:]) if leaf else None
        return (1,) * self.lead + leaf + (1,) * self.trail

    def accepts(self, source: tuple[int, ...], leaf: tuple[int, ...]) -> bool:
        return source == self.source_shape(leaf) or (self.flat and source == (1,) and leaf == ())

    def to_leaf(self, block: np.ndarray) -> np.ndarray:
        """A view, in the leaf's layout."""
        if self.flat:
            return block.reshape(())
        block = block.reshape(block.shape[self.lead : block.ndim - self.trail])
        return block if self.axes is None else block.transpose(self.axes)

    def to_source(self, leaf: np.ndarray) -> np.ndarray:
        """The inverse of `to_leaf`, a view."""
        leaf = leaf if self.axes is None else leaf.transpose(np.argsort(self.axes))
        return leaf.reshape((1,) * self.lead + leaf.shape + (1,) * self.trail)


_MATRIX = (1, 0)
OPS = {
    "copy": Op(),
    "scalar": Op(flat=True),
    "squeeze": Op(lead=1),  # [1, ...] -> [...], as timm keeps its position embeddings
    "squeeze_2": Op(lead=2),  # [1, 1, ...] -> [...], as timm keeps its class tokens
    "trim_2": Op(trail=2),  # [..., 1, 1] -> [...], as timm keeps scales of maps
    "linear": Op(axes=_MATRIX),  # torch [out, in] -> [in, out]
    "linear_1x1": Op(axes=_MATRIX, trail=2),  # torch's 1x1 convolution [out, in, 1, 1] -> [in, out]
    "conv": Op(axes=(2, 3, 1, 0)),  # torch [out, in, h, w] -> [h, w, in, out]
    "q": Op(part=0, parts=3),
    "k": Op(part=1, parts=3),
    "v": Op(part=2, parts=3),
    "q_linear": Op(axes=_MATRIX, part=0, parts=3),
    "k_linear": Op(axes=_MATRIX, part=1, parts=3),
    "v_linear": Op(axes=_MATRIX, part=2, parts=3),
    # For attention that keeps its queries in another array.
    "k_of_kv": Op(part=0, parts=2),
    "v_of_kv": Op(part=1, parts=2),
    "k_of_kv_linear": Op(axes=_MATRIX, part=0, parts=2),
    "v_of_kv_linear": Op(axes=_MATRIX, part=1, parts=2),
}
