"""Computations of one meaning that platforms want written in different ways."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax import Array

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def by_platform(*args: Array, default: Callable[..., Any], **of: Callable[..., Any]) -> Any:
    """`of[platform](*args)`, or `default(*args)` on any other platform ("cpu", "tpu").

    A program is for the platform that it is compiled for, which a machine need not have: that is known only
    behind tracing (`jax.lax.platform_dependent`), unless this is traced inside of `tracing_for`.
    """
    platform = _PLATFORM.get()
    if platform is None:
        return jax.lax.platform_dependent(*args, default=default, **of)
    return of.get(platform, default)(*args)


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """What is traced inside runs on this platform alone (`jax.Device.platform`); JAX traces a function once.

    Training steps must say so: of a choice at compile time XLA leaves a conditional of one branch inside of
    loops, and where parameters are split over devices it moves their collectives into it. A CPU's threads may
    then wait for each other in different collectives, for ever.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
