"""The tower files."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from clipjax.config import plug_ins
from converters.golden import towers
from converters.golden.recording import Tower


@functools.cache
def families() -> dict[str, ModuleType]:
    modules = plug_ins(towers.__path__, "TOWERS")
    return {name: importlib.import_module(f"{towers.__name__}.{module}") for name, module in modules.items()}


def tower_of(module: Any) -> Tower:
    """Raises SystemExit if no tower file takes its class."""
    for family in families().values():
        for tower in family.TOWERS:
            if tower.takes(module):
                return tower
    raise SystemExit(f"the reference runner has no stages for a {type(module).__name__} yet")
