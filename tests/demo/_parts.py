"""What runs in the processes of `side_by_side`."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from clipjax.demo.beside import side_by_side
from clipjax.errors import UsageError
from clipjax.progress import progress_bar


def meet(folder: Path, mine: str, other: str) -> None:
    """Say who is here, and wait for the other."""
    (folder / mine).write_text(str(os.getpid()))
    _wait_for(folder / other)


def refuse(after: Path | None = None) -> None:
    if after is not None:
        _wait_for(after)
    raise UsageError("no such thing")


def die() -> None:
    os.kill(os.getpid(), 9)


def two_bars() -> None:
    side_by_side(partial(bar, "first"), partial(bar, "second"))


def bar(name: str) -> None:
    with progress_bar(3, name, "step") as shown:
        for _ in range(3):
            shown.update()
            shown.refresh()  # type: ignore[union-attr]


def _wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(file)
