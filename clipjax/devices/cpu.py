"""Which products the host's CPU has instructions for. Imports no JAX, because `clipjax doctor` uses it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

FLAG = "avx512_bf16"


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a CPU has instructions that multiply bfloat16 and sum in float32.

    cpuinfo: the text of Linux's /proc/cpuinfo. Pass "" on a system without this file; the result is False.
    """
    return re.search(rf"^flags\s*:.*\b{FLAG}\b", cpuinfo, re.MULTILINE) is not None


@functools.cache
def this_cpu_multiplies_bfloat16() -> bool:
    try:
        return multiplies_bfloat16(Path("/proc/cpuinfo").read_text())
    except OSError:
        return False
