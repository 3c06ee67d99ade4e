"""Commands that list something start without the libraries that compute (time: benchmarks/startup.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from clipjax.cli import main
heavy, sys.argv[1:] = sys.argv[1].split(), sys.argv[2:]
try:
    main()
finally:
    loaded = sorted(set(heavy) & set(sys.modules))
    assert not loaded, loaded
"""
COMPUTE = "jax scipy pyarrow torch tensorflow"


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["--help"], f"{COMPUTE} numpy etils"),
        (["models"], COMPUTE),
        (["tasks"], f"{COMPUTE} numpy PIL"),
        (["datasets", "list"], COMPUTE),
    ],
    ids=["help", "models", "tasks", "datasets list"],
)
def test_a_listing_loads_nothing_that_computes(command: list[str], heavy: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, heavy, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
