"""The names of the fine-tuning methods and recipes. Imports no method, and so no JAX."""

from __future__ import annotations

import functools
from pathlib import Path

from clipjax.config import config_file, config_files, plug_ins
from clipjax.entry_points import PlugIn, cached, plug_ins_of
from clipjax.errors import UsageError, unknown_name
from clipjax.finetune import methods
from clipjax.storage.reading import is_file


def method_names() -> list[str]:
    """The modules of `methods/` that set `METHOD`, and plug-ins of other packages."""
    return sorted({*own_methods(), *method_plug_ins()})


@cached
def method_plug_ins() -> dict[str, PlugIn]:
    """By name. Raises DataError for a name that is taken."""
    return plug_ins_of("methods", own_methods())


@functools.cache
def own_methods() -> dict[str, str]:
    """Name -> dotted name below `methods/`."""
    return plug_ins(methods.__path__, "METHOD")


def check_method(name: str) -> None:
    """Raises UsageError with the nearest names."""
    if name not in method_names():
        raise unknown_name("method", name, method_names())


def recipe_names() -> list[str]:
    return sorted(config_files("finetune", ".toml"))


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe, by its name or path. Raises UsageError for an unknown name or a missing file."""
    path = Path(name) if str(name).endswith(".toml") else config_file("finetune", str(name), ".toml")
    if path is None:
        raise unknown_name("recipe", str(name), recipe_names())
    if not is_file(path):
        raise UsageError(f"--recipe {path} does not exist; `clipjax finetune list` names the recipes")
    return path
