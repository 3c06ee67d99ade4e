"""llama.cpp's server in the tests: how it ends, and what clipjax relies on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from _llama_server import MISSING, LlamaServer

PARENT = """
import os, signal, sys
from pathlib import Path
from _llama_server import LlamaServer
server = LlamaServer(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(server.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_it_ends_with_a_parent_that_was_killed(narrow_files: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, *map(str, narrow_files), str(tmp_path / "log.txt")]
    parent = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert parent.returncode == -9, parent.stderr
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
        psutil.Process(int(parent.stdout)).wait(timeout=60)


def test_it_says_which_model_it_has(narrow_server: LlamaServer) -> None:
    [model] = narrow_server.get("/v1/models")["data"]
    assert (model["owned_by"], model["meta"]["n_embd"]) == ("llamacpp", 64)
    props = narrow_server.get("/props")
    assert props["modalities"]["vision"]
    assert props["build_info"]
    assert "<|im_start|>" in props["chat_template"]
