"""The tower files."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from converters.golden import towers
from converters.golden.recording import Tower


@functools.cache
def families() -> dict[str, ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(towers.__path__))
    return {name: importlib.import_module(f"{towers.__name__}.{name}") for name in names}


def tower_of(module: Any) -> Tower:
    """Raises SystemExit if no tower file takes its class."""
    for family in families().values():
        for tower in family.TOWERS:
            if tower.takes(module):
                return tower
    raise SystemExit(f"the reference runner has no stages for a {type(module).__name__} yet")
