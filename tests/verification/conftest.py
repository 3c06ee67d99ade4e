"""Parity tests compile hundreds of programs that no other module runs."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest
from _reference_here import reference_here

__all__ = ["reference_here"]


@pytest.fixture(autouse=True, scope="module")
def drop_programs() -> Iterator[None]:
    """After each module; else a worker's memory grows to 9 GB by the end of the suite."""
    yield
    jax.clear_caches()
