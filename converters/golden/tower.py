"""The tower files."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from clipjax.registry import Registry
from converters.golden.recording import RecordedTower

TOWERS = Registry("tower", "TOWERS")


@functools.cache
def families() -> dict[str, ModuleType]:
    return {name: TOWERS.module(name) for name in TOWERS.own()}


def tower_of(module: Any) -> RecordedTower:
    """Raises SystemExit if no tower file takes its class."""
    for family in families().values():
        for tower in family.TOWERS:
            if tower.takes(module):
                return tower
    raise SystemExit(f"the reference runner has no stages for a {type(module).__name__} yet")
