"""A package of plug-ins as pip would install it, without pip."""

from __future__ import annotations

from pathlib import Path

import pytest


def install_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, points: str, group: str, name: str = "extra"
) -> Path:
    """Write `name` 2.1, one module and its metadata, into a new folder on Python's path; returns the folder.

    Args:
        source: of the module.
        points: lines of entry_points.txt; `{module}` becomes the module's name.
        group: without "clipjax.".
    """
    site = folder / name
    metadata, module = site / f"{name}-2.1.dist-info", f"{folder.name}_{name}".replace("-", "_")
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
    (metadata / "entry_points.txt").write_text(f"[clipjax.{group}]\n{points.format(module=module)}\n")
    (site / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(site)
    return site
