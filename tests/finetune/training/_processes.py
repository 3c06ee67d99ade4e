"""Starting tiny runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _xla_flags import flags_of

from tests import _forks
from tests._forks import Forked

SCRIPT = Path(__file__).with_name("_tiny_run.py")


def start(folder: Path, *arguments: Any, devices: int, **environ: str) -> Forked:
    """The process, its output two pipes; programs that the tests compiled before are found in their cache.

    environ: more of its environment.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": flags_of(devices),
        **environ,
    }
    pipe = subprocess.PIPE
    return _forks.start(SCRIPT, [folder, *arguments], environment, stdout=pipe, stderr=pipe)


def wait_for_batch(process: Forked, number: int) -> None:
    """Until a run takes this batch (or a later one)."""
    _wait_for(process, lambda line: line.isdigit() and int(line) >= number, f"batch {number}")


def _wait_for(process: Forked, told: Callable[[str], bool], what: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if told(line.strip()):
            return
    _, error = process.communicate()
    raise AssertionError(f"the run ended before {what}: {error[-2000:]}")
