"""Params in parts: what is trained, what a forward pass updates, and what stays as it is.

A part is a nested dict like the whole, without the branches that belong to another part; `merge` puts the
parts together again. The optimiser, checkpoints and donation see the trained part alone: a linear probe of a
ViT-bigG keeps no moments of the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, Any]

# BatchNorm's running statistics, by the last part of their paths: no gradient moves them.
STATISTICS = ("mean", "var")


class Parts(NamedTuple):
    """The parts of a params tree: each leaf is in exactly one of them.

    Attributes:
        trained: moved by gradients.
        statistics: BatchNorm's running mean and variance, where the forward pass updates them.
        frozen: all the rest.
    """

    trained: Params
    statistics: Params
    frozen: Params


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path, "vision/blocks/attn/q/kernel"."""
    return flatten_dict(dict(tree), sep="/")


def nest(leaves: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    return unflatten_dict(dict(leaves), sep="/")


def is_statistic(path: str) -> bool:
    """Whether a leaf is a running statistic of a BatchNorm."""
    return path.rsplit("/", 1)[-1] in STATISTICS


def split(params: Params, trained: Callable[[str], bool], *, update_statistics: bool) -> Parts:
    """Cut a params tree into its parts.

    Args:
        trained: whether a leaf of this path is trained.
        update_statistics: whether the forward pass updates the statistics of trained BatchNorms; otherwise
            they are frozen.
    """
    parts: tuple[dict[str, Any], ...] = ({}, {}, {})
    for path, leaf in flatten(params).items():
        kind = 2 if not trained(path) else 0
        if kind == 0 and is_statistic(path):
            kind = 1 if update_statistics else 2
        parts[kind][path] = leaf
    return Parts(*map(nest, parts))


def merge(*parts: Mapping[str, Any]) -> Params:
    """The tree that holds the leaves of all parts; where two have the same leaf, the later one's."""
    leaves: dict[str, Any] = {}
    for part in parts:
        leaves |= flatten(part)
    return nest(leaves)
