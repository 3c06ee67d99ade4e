"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).resolve().parent.parent

# The modules that state shapes.
ANNOTATED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("clipjax/**/*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]

# As typing has it, an int is a float, too.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
