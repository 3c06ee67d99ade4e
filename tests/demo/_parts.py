"""What runs in the second process of `beside`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clipjax.errors import UsageError


def meet(folder: Path, mine: str, other: str) -> None:
    """Say who is here, and wait for the other."""
    (folder / mine).write_text(str(os.getpid()))
    for _ in range(600):
        if (folder / other).exists():
            return
        time.sleep(0.1)
    raise TimeoutError(other)


def refuse() -> None:
    raise UsageError("no such thing")


def die() -> None:
    os.kill(os.getpid(), 9)
