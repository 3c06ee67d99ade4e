"""Params in parts, each a nested dict.

Optimiser, checkpoints and donation see only the trained part: a linear probe keeps no moments of the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

Params = dict[str, Any]

# Leaf names of BatchNorm's running statistics, which no gradient moves.
STATISTICS = ("mean", "var")


class ParamGroups(NamedTuple):
    """Each leaf is in exactly one part; `statistics` are BatchNorm's running ones, if updated."""

    trained: Params
    statistics: Params
    frozen: Params


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path: "vision/blocks/attn/q/kernel"."""
    return flatten_dict(dict(tree), sep="/")


def nest(leaves: Mapping[str, Any]) -> Params:
    return unflatten_dict(dict(leaves), sep="/")


def is_statistic(path: str) -> bool:
    return path.rsplit("/", 1)[-1] in STATISTICS


def split(params: Params, trained: Callable[[str], bool], *, update_statistics: bool) -> ParamGroups:
    """Divide params into trained ones, statistics of BatchNorm, and frozen ones.

    Args:
        trained: whether the leaf at a path is trained.
        update_statistics: whether trained BatchNorms update their statistics, which else are frozen.
    """
    parts: tuple[dict[str, Any], ...] = ({}, {}, {})
    for path, leaf in flatten(params).items():
        kind = 2 if not trained(path) else 0
        if kind == 0 and is_statistic(path):
            kind = 1 if update_statistics else 2
        parts[kind][path] = leaf
    return ParamGroups(*map(nest, parts))


def merge(*parts: Mapping[str, Any]) -> Params:
    """One nested dict of all leaves; where parts share a path, the last one's leaf."""
    leaves: dict[str, Any] = {}
    for part in parts:
        leaves |= flatten(part)
    return nest(leaves)
