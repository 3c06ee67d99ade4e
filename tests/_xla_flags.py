"""XLA_FLAGS of the suite and of the processes that its tests start."""

from __future__ import annotations

import os
import re

# Most programs of the suite run once: these compile in a fifth of the time and run up to four times slower.
# Both of the first two are needed: level 0 leaves the code of the fusion emitters unoptimised.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# XLA's defaults, as compiler options of one program: they override XLA_FLAGS.
FULLY = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}
_DEVICES = "--xla_force_host_platform_device_count"


def suite_flags() -> str:
    """The user's XLA_FLAGS where they are set; otherwise eight host devices and quick compilation."""
    quick = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICKLY.items())
    return os.environ.get("XLA_FLAGS", f"{_DEVICES}=8 {quick}")


def flags_of(devices: int) -> str:
    """The suite's flags with this many devices: other compiler options would give other bits."""
    others = re.sub(rf"{_DEVICES}=\d+", "", os.environ["XLA_FLAGS"])
    return f"{_DEVICES}={devices} {others}".strip()
