"""All that the checks see of a machine, so that a test can pass another."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipjax.metrics.cores import usable_cores

PROBE_SECONDS = 180  # a TPU held by another process makes JAX wait forever

# Runs in its own process: a driver's crash or hang ends only that, no device memory stays taken, and `clipjax
# doctor` starts fast.
_PROBE = """
import json, jax
devices = [
    {"platform": d.platform, "kind": d.device_kind, "memory": (d.memory_stats() or {}).get("bytes_limit")}
    for d in jax.local_devices()
]
print(json.dumps({"devices": devices}))
"""


@dataclass(frozen=True)
class Probe:
    """JAX's devices (platform, kind, memory in bytes or None), or the reason for having none."""

    devices: Sequence[Mapping[str, Any]] = ()
    error: str | None = None

    @property
    def platforms(self) -> set[str]:
        return {device["platform"] for device in self.devices}


@dataclass(frozen=True)
class Machine:
    """A machine and its Python environment.

    Attributes:
        root: folder of /proc, /sys and /dev.
        cores: that this process may use.
        requires: a package's requirements (PEP 508).
        free: bytes on an existing folder's disk.
        writable: whether files can be made in an existing folder.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    root: Path = Path("/")
    cores: int = 1
    python: str = "3.11.0"
    version: Callable[[str], str | None] = lambda name: None
    requires: Callable[[str], Sequence[str]] = lambda name: ()
    probe: Callable[[], Probe] = Probe
    free: Callable[[Path], int] = lambda folder: 10**12
    writable: Callable[[Path], bool] = lambda folder: os.access(folder, os.W_OK | os.X_OK)

    def read(self, path: str) -> str | None:
        """A file below `root`; None if unreadable."""
        try:
            return (self.root / path.lstrip("/")).read_text()
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).exists()


def this_machine() -> Machine:
    return Machine(
        environ=dict(os.environ),
        cores=usable_cores(),
        python=platform.python_version(),
        version=installed_version,
        requires=_requires,
        probe=functools.cache(_probe),
        free=lambda folder: shutil.disk_usage(folder).free,
    )


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requires(name: str) -> Sequence[str]:
    try:
        return importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return ()


def _probe() -> Probe:
    environ = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return Probe(error=f"JAX did not find its devices within {PROBE_SECONDS} seconds")
    if done.returncode:
        return Probe(error=_reason(done.stderr) or f"JAX ended with exit code {done.returncode}")
    return Probe(json.loads(done.stdout.splitlines()[-1])["devices"])


def _reason(stderr: str) -> str:
    """A traceback's last line."""
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    # JAX 0.10 fails an assertion if the platform asked for is known but not installed.
    return last.removeprefix("RuntimeError: ").replace("AssertionError", "its backend is not installed")
