"""The names of the fine-tuning methods and recipes. Imports no method, and so no JAX."""

from __future__ import annotations

from pathlib import Path

from clipjax.config import ConfigFolder, config_file, config_files
from clipjax.errors import UsageError, unknown_name
from clipjax.registry import Registry
from clipjax.storage.reading import is_file

METHODS = Registry("method", "METHOD", group="methods")


def recipe_names() -> list[str]:
    return sorted(config_files(ConfigFolder.FINETUNE))


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe, by its name or path. Raises UsageError for an unknown name or a missing file."""
    path = Path(name) if str(name).endswith(".toml") else config_file(ConfigFolder.FINETUNE, str(name))
    if path is None:
        raise unknown_name("recipe", str(name), recipe_names())
    if not is_file(path):
        raise UsageError(f"--recipe {path} does not exist; `clipjax finetune list` names the recipes")
    return path
