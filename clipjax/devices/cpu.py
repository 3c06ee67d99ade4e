"""What a host's CPU computes itself, without JAX: `clipjax doctor` asks, too."""

from __future__ import annotations

import functools
import re
from pathlib import Path

FLAG = "avx512_bf16"


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a CPU has instructions for products of bfloat16 with a float32 sum.

    cpuinfo: the text of Linux's /proc/cpuinfo; "" where there is none, and then the answer is no.
    """
    return re.search(rf"^flags\s*:.*\b{FLAG}\b", cpuinfo, re.MULTILINE) is not None


@functools.cache
def this_cpu_multiplies_bfloat16() -> bool:
    try:
        return multiplies_bfloat16(Path("/proc/cpuinfo").read_text())
    except OSError:
        return False
