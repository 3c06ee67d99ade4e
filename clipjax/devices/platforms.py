"""One computation, written differently for each platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh


def by_platform(
    *args: Array, platform: str | None, default: Callable[..., Any], **of: Callable[..., Any]
) -> Any:
    """`of[platform](*args)`, or `default(*args)` on any other platform ("cpu", "tpu").

    platform: where the program will run, so that only one way is traced. None: the compiler chooses, as the
    target may not be this machine's.
    """
    if platform is None:
        return jax.lax.platform_dependent(*args, default=default, **of)
    return of.get(platform, default)(*args)


def platform_of(mesh: Mesh) -> str:
    """The platform of a mesh's devices, which training steps must pass on.

    Inside loops XLA keeps a compile-time choice as a conditional of one branch, and moves the collectives of
    split parameters into it. There a CPU's threads may wait forever for each other in different collectives.
    """
    return mesh.devices.flat[0].platform


def chip_of(mesh: Mesh) -> str:
    """The kind of a mesh's devices as JAX names it, such as "TPU v6 lite"."""
    return mesh.devices.flat[0].device_kind


def gpu_capability() -> tuple[int, int]:
    """The compute capability of this process's GPUs, such as (9, 0) of an H100; (0, 0) without NVIDIA's."""
    try:
        found = getattr(jax.devices("gpu")[0], "compute_capability", "0.0")
    except RuntimeError:
        return 0, 0
    major, _, minor = found.partition(".")
    return (int(major), int(minor)) if minor.isdigit() else (0, 0)
