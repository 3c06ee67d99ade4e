"""Starting tiny runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _xla_flags import flags_of

SCRIPT = Path(__file__).with_name("_tiny_run.py")


def start(folder: Path, *arguments: Any, devices: int, **environ: str) -> subprocess.Popen[str]:
    """The process, its output a pipe; programs that the tests compiled before are found in their cache.

    environ: more of its environment.
    """
    environment = {
        **os.environ,
        "XLA_FLAGS": flags_of(devices),
        **environ,
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_batch(process: subprocess.Popen[str], number: int) -> None:
    """Until a run takes this batch (or a later one)."""
    _wait_for(process, lambda line: line.isdigit() and int(line) >= number, f"batch {number}")


def _wait_for(process: subprocess.Popen[str], told: Callable[[str], bool], what: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if told(line.strip()):
            return
    _, error = process.communicate()
    raise AssertionError(f"the run ended before {what}: {error[-2000:]}")
