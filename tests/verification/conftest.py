"""Parity tests compile hundreds of programs that no other module runs."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import psutil
import pytest
from _reference_here import reference_here

__all__ = ["reference_here"]


_MANY_BYTES = 3e9  # a worker would grow to 9e9 by the end of the suite


@pytest.fixture(autouse=True, scope="module")
def drop_programs() -> Iterator[None]:
    """After a module, where the worker has grown: small programs are those of all modules."""
    yield
    if psutil.Process().memory_info().rss > _MANY_BYTES:
        jax.clear_caches()
