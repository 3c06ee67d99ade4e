"""The machine and versions that computed a number, and the count of XLA's compilations."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipjax.devices.flags import public_flags

# Packages whose version may change a number.
_PACKAGES = ("clipjax", "jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "tokenizers", "ftfy", "regex")
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


def provenance() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {
        "versions": versions(),
        "xla_flags": public_flags(os.environ.get("XLA_FLAGS")),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "git_revision": git_revision(),
    }


@functools.cache
def versions() -> dict[str, str]:
    by_package = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            by_package[name] = importlib.metadata.version(name)
    return by_package


@functools.cache
def git_revision() -> str | None:
    """Commit of clipjax's checkout, with "+" if tracked files differ; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


class Compiles:
    def __init__(self) -> None:
        self.count = 0


_open_counters: list[Compiles] = []


@contextlib.contextmanager
def count_compiles() -> Iterator[Compiles]:
    """Count the programs that XLA compiles, or takes from the persistent cache, in the block."""
    _listen()
    counter = Compiles()
    _open_counters.append(counter)
    try:
        yield counter
    finally:
        _open_counters.remove(counter)


@functools.cache
def _listen() -> None:
    """Cached to register once: JAX has no public way to remove a listener."""
    import jax.monitoring

    def on_event(event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILE_EVENT:
            for counter in _open_counters:
                counter.count += 1

    jax.monitoring.register_event_duration_secs_listener(on_event)
