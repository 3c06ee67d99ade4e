"""Compiled programs are kept on the disk for a while, as in a user's run; the suite keeps none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental.compilation_cache import compilation_cache

_SETTINGS = {
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}


@contextmanager
def programs_kept() -> Iterator[None]:
    """JAX keeps every program, and has no folder of its own for them."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    try:
        _set(_SETTINGS)
        yield
    finally:
        _set(before)


def _set(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else JAX goes on with the folder that it opened
