"""The cores of this machine that the process may use.

Here because the bootstrap needs it, and `metrics` imports nothing of clipjax.
"""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The number of cores that this process may use, where the system tells (not on macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
