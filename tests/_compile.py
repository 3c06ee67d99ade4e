"""Compilation for tests that only show that something runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

# Compiler options of a program that runs once.
QUICKLY = {"xla_backend_optimization_level": 0}


@contextmanager
def unoptimised(cache: Path | None = None) -> Iterator[None]:
    """Programs that run a few steps need not be fast.

    Args:
        cache: a folder in which each is kept, so that two alike are compiled once.
    """
    settings: dict[str, Any] = {"jax_disable_most_optimizations": True}
    if cache is not None:
        settings["jax_compilation_cache_dir"] = str(cache)
        settings["jax_persistent_cache_min_compile_time_secs"] = 0.0
    # This one can be set and not read; it is off by default.
    before = {name: getattr(jax.config, name, False) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
