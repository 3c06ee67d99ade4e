"""Commands that run no model start without the libraries that compute (time: benchmarks/startup.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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
PHOTOS = "photos"
COMPUTE = "jax scipy pyarrow torch tensorflow"


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["--help"], f"{COMPUTE} numpy etils"),
        (["models"], COMPUTE),
        (["tasks"], f"{COMPUTE} numpy PIL"),
        (["datasets", "list"], COMPUTE),
        (["datasets", "check", "folder", PHOTOS], "jax pyarrow torch tensorflow"),
        (["eval", "zeroshot", "-m", "vit_b_32-opena", "--data", "."], COMPUTE),
    ],
    ids=["help", "models", "tasks", "datasets list", "datasets check", "a mistyped model"],
)
def test_what_runs_no_model_loads_nothing_that_computes(
    command: list[str], heavy: str, tmp_path: Path
) -> None:
    (tmp_path / PHOTOS / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / PHOTOS / "dog" / "0.png")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, heavy, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == (2 if "eval" in command else 0), done.stderr
