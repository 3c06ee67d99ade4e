"""XLA_FLAGS of the suite and of the processes that its tests start."""

from __future__ import annotations

import importlib.metadata
import os
import re
from typing import Any

from packaging.version import Version

# Most programs of the suite run once: these compile in a fifth of the time and run up to four times slower.
# Level 0 leaves the code of the fusion emitters unoptimised: they are switched off where they can be.
QUICKLY: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# XLA's defaults, as compiler options of one program: they override XLA_FLAGS.
FULLY: dict[str, Any] = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_parallel_codegen_split_count": 32,
}
if Version(importlib.metadata.version("jaxlib")) < Version("0.11.1"):  # later ones refuse the flag
    QUICKLY["xla_cpu_use_fusion_emitters"] = False
    FULLY["xla_cpu_use_fusion_emitters"] = True
_DEVICES = "--xla_force_host_platform_device_count"


def suite_flags() -> str:
    """The user's XLA_FLAGS where they are set; otherwise eight host devices and quick compilation."""
    quick = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICKLY.items())
    return os.environ.get("XLA_FLAGS", f"{_DEVICES}=8 {quick}")


def flags_of(devices: int) -> str:
    """The suite's flags with this many devices: other compiler options would give other bits."""
    others = re.sub(rf"{_DEVICES}=\d+", "", os.environ["XLA_FLAGS"])
    return f"{_DEVICES}={devices} {others}".strip()
