"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# As typing has it, an int is a float, too.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
