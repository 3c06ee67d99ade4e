"""`clipjax datasets fetch` that gets a signal while files come: it ends at once, and the parts stay."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _file_server import Content, FileServer

from clipjax.data.cards import read_card
from clipjax.downloads.part_file import part_of
from clipjax.downloads.receipts import FetchFolders

ROOT = Path(__file__).parents[2]
DATA = random.Random(5).randbytes(1_000_000)
CARD = """
name = "mine"
title = "Mine"
reader = "folder"
place = "mine"
images = 4
classes = ["cat", "dog"]
[[files]]
name = "mine.tar"
kind = "tar"
addresses = ["{url}/mine.tar"]
[[files]]
name = "silent.tar"
kind = "tar"
addresses = ["{url}/silent.tar"]
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_a_fetch_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """One server is slow, one is silent: nobody waits for it."""
    with FileServer(
        {"/mine.tar": Content(DATA, rate=100_000), "/silent.tar": Content(DATA, rate=0)}
    ) as server:
        (tmp_path / "mine.toml").write_text(CARD.format(url=server.url))
        command = [sys.executable, "-m", "clipjax.cli", "datasets", "fetch", "mine", "--to", str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
        file, _ = read_card(tmp_path / "mine.toml").files
        part = part_of(FetchFolders(tmp_path).download(file))
        fetch = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while not (part.exists() and part.stat().st_size):
            assert fetch.poll() is None
            time.sleep(0.01)
        fetch.send_signal(number)
        start = time.monotonic()
        _, said = fetch.communicate(timeout=60)
        assert time.monotonic() - start < 10
    assert fetch.returncode == code, said
    assert said.count("what is finished is kept") == 1
    assert "Traceback" not in said
    assert part.read_bytes() == DATA[: part.stat().st_size]
    assert not (tmp_path / "mine").exists()
