"""A sweep in parts, for the jobs of an array: `--shard i/n`.

A unit is a model's runs on data sets that share images, so no two shards embed the same. The plan's units are
cut into n contiguous parts so that the costliest is as cheap as possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from clipjax.errors import UsageError
from clipjax.estimates.cost import total_flops
from clipjax.sweep.plan import SweepItem, connected

WHOLE = 1.1  # whole models may cost this factor more in the costliest part


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def read_shard(text: str) -> Shard:
    """ "3/8" is the third of eight. Raises UsageError for anything else."""
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return Shard(int(first), int(second))
    raise UsageError(f"--shard {text!r} is not one of n parts: write 1/8 for the first of eight, up to 8/8")


def cut(items: Sequence[SweepItem], count: int) -> list[list[SweepItem]]:
    """Cut units into shards; if there are fewer units than shards, the last are empty."""
    models = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.choice.name)]
    units = [unit for model in models for unit in connected(model)]
    fine, whole = _even(units, count), _even(models, count)
    return whole if _costliest(whole) <= WHOLE * _costliest(fine) else fine


def _costliest(parts: Sequence[Sequence[SweepItem]]) -> int:
    return max(map(total_flops, parts))


def _even(units: Sequence[list[SweepItem]], count: int) -> list[list[SweepItem]]:
    """`count` contiguous parts, by bisection on the cost of the costliest.

    Costs 4, 1, 1, 4 in 2 parts give 4, 1 | 1, 4.
    """
    costs = [total_flops(unit) for unit in units]
    low, high = max([0, *costs]), sum(costs)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(costs, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    parts, start = [], 0
    for size in _filled(costs, high):
        parts.append([item for unit in units[start : start + size] for item in unit])
        start += size
    return parts + [[]] * (count - len(parts))


def _filled(costs: Sequence[int], most: int) -> list[int]:
    """Units in each part, filled in order up to `most`."""
    sizes, total = [0], 0
    for cost in costs:
        if total + cost > most and sizes[-1]:
            sizes.append(0)
            total = 0
        sizes[-1] += 1
        total += cost
    return sizes
