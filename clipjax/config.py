"""Where configs/ and the user's cache are, and a package's plug-ins."""

from __future__ import annotations

import functools
import os
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from clipjax.errors import DataError


@functools.cache
def config_dir() -> Path:
    """configs/: in a wheel `clipjax/configs`, in a checkout beside the package.

    Raises:
        DataError: it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "models.csv").is_file():
            return candidate
    raise DataError(f"configs/ not found beside {package}; reinstall clipjax")


def plug_ins(folders: Iterable[str], record: str) -> tuple[str, ...]:
    """The modules of a package that set `record` ("TASK", "READER"), by name; none is imported.

    Args:
        folders: the package's `__path__`.
    """
    names = []
    for module in pkgutil.iter_modules(folders):
        file = Path(str(getattr(module.module_finder, "path", ""))) / f"{module.name}.py"
        if not module.ispkg and re.search(rf"(?m)^{record}\b", file.read_text(encoding="utf-8")):
            names.append(module.name)
    return tuple(sorted(names))


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache: $CLIPJAX_CACHE, else ~/.cache/clipjax."""
    return Path(environ.get("CLIPJAX_CACHE") or Path.home() / ".cache" / "clipjax")
